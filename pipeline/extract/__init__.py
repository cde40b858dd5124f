"""Archives and plain text to pages: their text and its language."""
