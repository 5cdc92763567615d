"""The parser checks the ranges of ``files/numbers.py``."""

from __future__ import annotations

import functools
import math
import sys
from typing import Any

from jsonargparse.typing import register_type

from files.numbers import RANGED, PositiveFloat, PositiveInt, UnitInterval


def register_ranges() -> None:
    """Make jsonargparse refuse a number outside of its type's range; in range it stays plain."""
    for kind in RANGED:
        register_type(
            kind,
            serializer=int if issubclass(kind, int) else float,
            deserializer=functools.partial(in_range, kind),
            type_check=lambda value, kind: False,  # plain numbers are checked again
        )


def in_range(kind: type, value: Any) -> int | float:
    """Return the number, an int or float.

    Raises:
        ValueError: It is not one, or outside of the range.
    """
    whole = issubclass(kind, int)
    least = 0 if kind not in (PositiveInt, PositiveFloat) else 1 if whole else math.ulp(0.0)
    most = 1 if kind is UnitInterval else sys.float_info.max
    try:
        number = math.nan if isinstance(value, bool) else (int if whole else float)(value)
    except (TypeError, ValueError):
        number = math.nan
    if not least <= number <= most or (whole and isinstance(value, float)):
        said = (kind.__doc__ or "").lower()
        raise ValueError(f"Expected {said} Got value: {value}")
    return number
