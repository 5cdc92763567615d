"""One file a method, named as its paper names it, over the contracts in `base.py`.

To add a method: subclass `SuperResolver` (or `Generator`) and name the class in a YAML file.
"""
