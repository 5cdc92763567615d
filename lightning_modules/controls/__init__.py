"""Baselines of published tables."""
