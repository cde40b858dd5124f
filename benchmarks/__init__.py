"""Measurements beside peers, each on the same input in one run: `python -m benchmarks.NAME --help`."""
