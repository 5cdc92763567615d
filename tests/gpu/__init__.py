"""Tests on a pretended GPU, each file in a process of its own."""
