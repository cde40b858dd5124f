"""`python -m benchmarks.attacks`: hostile inputs, what comes of each, and what it costs in time and memory."""
