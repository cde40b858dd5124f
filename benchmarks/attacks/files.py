"""Attacks by way of files."""
