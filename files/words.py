"""Names in messages."""

from __future__ import annotations

from collections.abc import Iterable


def first_of(names: Iterable[str], most: int = 5) -> str:
    """Return the first of some names for a message, and how many follow: ``a, b and 3 more``.

    Args:
        names: The names.
        most: How many are shown.
    """
    first = list(names)
    following = first[most:]
    text = ", ".join(first[:most])
    return f"{text} and {len(following)} more" if following else text
