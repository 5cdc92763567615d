"""Sampling: solvers, tiles, conditions, colours."""
