"""Attacks by way of workflow."""
