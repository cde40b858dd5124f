"""Models passed on: their cards, and folders that are uploaded to the hub."""
