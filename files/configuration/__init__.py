"""Files of configurations: YAML, and layers of it merged into one dictionary."""
