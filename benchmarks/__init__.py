"""Measurements beside peers, each on the same input in one run. They run from the checkout only."""
