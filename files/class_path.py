"""The name of a class, as configurations, checkpoints and exported files have it."""

from __future__ import annotations

import sys


def class_path(cls: type) -> str:
    """Return the shortest path under which a configuration finds a class.

    A room's public names, such as ``callbacks.PSNR``, stay the same when files move.

    Args:
        cls: The class.
    """
    package = cls.__module__.partition(".")[0]
    public = getattr(sys.modules.get(package), cls.__name__, None)
    return f"{package if public is cls else cls.__module__}.{cls.__qualname__}"
