"""Image files: their names, roles, pairs and captions."""
