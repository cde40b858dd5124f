"""Which archives there are to read, and fetching them."""
