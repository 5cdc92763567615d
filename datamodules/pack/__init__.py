"""Pack images into shards: `python -m datamodules.pack`."""
