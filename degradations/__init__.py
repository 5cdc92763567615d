"""Degradations: make low-resolution images from high-resolution ones, on the training device.

To add a degradation: subclass `Stage` (one step) or `Degradation` (a whole recipe) and name the
class in a YAML file.
"""
