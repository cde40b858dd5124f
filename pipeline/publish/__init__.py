"""The card of a corpus, its publication, and shards made again from a recipe."""
