"""Runs on several processes: launch, checks, heartbeat."""
