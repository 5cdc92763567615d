"""Runs on several processes: launch, checks, limits."""
