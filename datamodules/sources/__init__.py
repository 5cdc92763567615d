"""Sources: datasets that a configuration names."""
