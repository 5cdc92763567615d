"""Data: `SRDataModule`, and the Sources that read images.

To add a dataset: subclass `Source` and name the class in a YAML file.
"""
