"""Image files: bytes to pixels, and their colours."""
