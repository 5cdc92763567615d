"""Reading images from shards: ours, the limit, and other loaders."""
