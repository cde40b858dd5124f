"""What became of any page of a crawl, and samples of what was kept and dropped."""
