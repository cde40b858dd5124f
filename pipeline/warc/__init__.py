"""Reading archives, sound or damaged."""
