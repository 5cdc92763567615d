"""The order of samples in an epoch."""
