"""Files that `predict` writes."""
