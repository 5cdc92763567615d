"""`main.py app`: a page in the browser that enlarges photographs."""
