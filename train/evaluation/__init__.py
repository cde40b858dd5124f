"""Measuring a backbone, or a run on it."""
