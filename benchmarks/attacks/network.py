"""Attacks by way of network."""
