"""Miniatures: each method trained small, with its controls."""
