"""Videos: their frames and colours."""
