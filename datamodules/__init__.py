"""Where pictures come from: `SRDataModule` and its Sources.

To add a dataset: subclass `Source` and name the class in a YAML file.
"""
