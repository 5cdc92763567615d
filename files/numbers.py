"""Types that say the range of a number, as ``scale: PositiveInt``.

A configuration with a number outside of it is refused where it is read; to Python code they are
plain ``int`` and ``float``, which is also what a constructor gets.
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

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


RANGED = (PositiveInt, NonNegativeInt, PositiveFloat, NonNegativeFloat, UnitInterval)


def positive(text: str) -> int:
    """Return an integer above 0 that was typed, for argparse.

    Raises:
        ArgumentTypeError: It is none.
    """
    if not (text.isascii() and text.isdigit()) or int(text) == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above 0")
    return int(text)
