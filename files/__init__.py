"""Files and folders: reading paths, writing and deleting safely. The lowest layer."""
