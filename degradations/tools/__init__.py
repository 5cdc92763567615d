"""Degradations of configuration files, and the command preview."""
