"""Contracts: tests that find the classes of each kind and run on all of them."""
