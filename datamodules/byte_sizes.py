"""Byte sizes as users write them: 500M, 50G."""

from __future__ import annotations

import re

UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}


def parse_bytes(text: str | int, what: str) -> int:
    """Parse a number of bytes such as ``50G``.

    Args:
        text: A number, optionally with a unit (K, M, G, T; powers of 1024).
        what: The key that was set, for the message.

    Raises:
        ValueError: If it is not such a number.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]?)(?:i?B)?", str(text).strip(), re.IGNORECASE)
    if match is None:
        raise ValueError(f"{what} is {text!r}; expected a number of bytes such as 500M or 50G")
    return int(float(match[1]) * UNITS[match[2].upper()])
