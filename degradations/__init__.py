"""Degradations: make low-resolution images from high-resolution ones, on the training device.

To add a degradation: subclass `Stage` (one step) or `Degradation` (a whole recipe) and name the
class in a YAML file.
"""

import lazy_loader

# The public names and where they are defined: `__init__.pyi`.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
