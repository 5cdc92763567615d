"""Callbacks: metrics, EMA, sample images, results, and the writer of enlarged images.

To add a metric: subclass `ImageMetric` (a number for each image) or `SetMetric` (one for the whole
set) and name the class under `trainer.callbacks`.
"""

import lazy_loader

# The public names and where they are defined: `__init__.pyi`.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
