"""Measure sets of images, part by part, and find their duplicates; imports no torch."""
