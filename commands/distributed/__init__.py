"""Runs on several processes: launch, checks, and how they end."""
