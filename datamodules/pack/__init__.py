"""Pack images into shards: `python main.py pack`."""
