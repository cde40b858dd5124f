"""A first config: what a user has, what suits it, and what it will cost."""
