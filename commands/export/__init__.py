"""`main.py export`: weights in other formats."""
