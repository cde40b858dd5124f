"""Attacks by way of corpus."""
