"""One file a method, named as its paper names it, over the contracts in `base.py`.

To add a method: subclass `SuperResolver` (or `Generator`) and name the class in a YAML file.
"""

import lazy_loader

# The public names and where they are defined: `__init__.pyi`.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
