"""Attacks by way of recipes."""
