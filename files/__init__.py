"""Files and folders: how paths are read, and what may be deleted. The lowest layer."""
