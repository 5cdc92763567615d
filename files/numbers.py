"""Types that say the range of a number, as ``scale: PositiveInt``.

A configuration with a number outside of it is refused where it is read, by our parser or by a plain
LightningCLI; to Python code they are plain ``int`` and ``float``, which is also what a constructor
gets.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import math
import sys
from typing import TYPE_CHECKING, Any

from jsonargparse.typing import register_type

if TYPE_CHECKING:
    PositiveInt = int
    NonNegativeInt = int
    PositiveFloat = float
    NonNegativeFloat = float
    UnitInterval = float
else:

    class PositiveInt(int):
        """An integer above 0."""

    class NonNegativeInt(int):
        """An integer of at least 0."""

    class PositiveFloat(float):
        """A finite number above 0."""

    class NonNegativeFloat(float):
        """A finite number of at least 0."""

    class UnitInterval(float):
        """A number from 0 to 1."""


RANGES: dict[type, tuple[float, float]] = {  # least and greatest number
    PositiveInt: (1, sys.float_info.max),
    NonNegativeInt: (0, sys.float_info.max),
    PositiveFloat: (math.ulp(0.0), sys.float_info.max),
    NonNegativeFloat: (0, sys.float_info.max),
    UnitInterval: (0, 1),
}


def _number_in_range(kind: type, value: Any) -> int | float:
    """Return a value of a configuration as a plain int or float.

    Args:
        kind: One of the types of ``RANGES``.
        value: A number, or its text.

    Raises:
        ValueError: It is no number, or outside of the range.
    """
    is_integer = issubclass(kind, int)
    least, greatest = RANGES[kind]
    number: int | float = math.nan
    is_other_type = isinstance(value, bool) or (is_integer and isinstance(value, float))
    if not is_other_type:
        with contextlib.suppress(TypeError, ValueError):
            number = int(value) if is_integer else float(value)
    if not least <= number <= greatest:
        description = (kind.__doc__ or "").lower()
        raise ValueError(f"Expected {description} Got value: {value}")
    return number


for _kind in RANGES:
    register_type(
        _kind,
        serializer=int if issubclass(_kind, int) else float,
        deserializer=functools.partial(_number_in_range, _kind),
        type_check=lambda value, kind: False,  # plain numbers are checked again
    )


def positive(text: str) -> int:
    """Return the integer above 0 that a text says: the ``type`` of an argument for argparse.

    Raises:
        ArgumentTypeError: It is none.
    """
    if not (text.isascii() and text.isdigit()) or int(text) == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above 0")
    return int(text)
