"""Videos: their frames, colours and containers."""
