"""Tests on a pretended GPU, in a process of their own."""
