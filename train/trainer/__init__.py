"""The training loop, and what belongs to it: mixture, optimizer, checkpoints, metrics, failures."""
