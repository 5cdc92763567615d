"""Names in messages."""

from __future__ import annotations

from collections.abc import Iterable


def first_of(names: Iterable[str], most: int = 5) -> str:
    """Return the first of some names, and how many follow: ``a, b and 3 more``.

    Args:
        names: The names.
        most: How many are shown.
    """
    known = list(names)
    rest = f" and {len(known) - most} more" if len(known) > most else ""
    return ", ".join(known[:most]) + rest
