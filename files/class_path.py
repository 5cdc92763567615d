"""Names of classes and functions, as configurations, checkpoints and exported files have them."""

from __future__ import annotations

import sys
from typing import Any


def class_path(cls: type) -> str:
    """Return the shortest path under which a configuration finds a class.

    A room's public names, such as ``callbacks.PSNR``, stay the same when files move.

    Args:
        cls: The class.
    """
    package = cls.__module__.partition(".")[0]
    public = getattr(sys.modules.get(package), cls.__name__, None)
    return f"{package if public is cls else cls.__module__}.{cls.__qualname__}"


def name_the_same(one: Any, other: Any) -> bool:
    """Return whether two texts are paths of the same object, such as a function that has moved.

    Nothing is imported: a path of a module that this process has not imported names nothing.

    Args:
        one: A value of a configuration.
        other: Another one.
    """
    found = _named(one)
    return found is not None and found is _named(other)


def _named(path: Any) -> Any:
    module, _, name = path.rpartition(".") if isinstance(path, str) else ("", "", "")
    return vars(sys.modules[module]).get(name) if module in sys.modules else None
