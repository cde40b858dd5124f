"""Pages to documents, and documents to shards: duplicates, filters, quality."""
