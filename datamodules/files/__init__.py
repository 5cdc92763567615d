"""Image files: bytes to pixels."""
