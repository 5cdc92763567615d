"""WebDataset shards: reading, caching, writing."""
