"""`main.py doctor`: what is wrong with a machine and its files."""
