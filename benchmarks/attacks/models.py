"""Attacks by way of models."""
