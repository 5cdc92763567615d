"""``main.py check``: what this machine has, what a configuration lacks, and its first step."""
