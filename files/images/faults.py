"""Faults of image files that have a reason of their own."""

from __future__ import annotations


class Unsupported(ValueError):  # noqa: N818  (names the state)
    """An intact image of a kind that is not supported."""


class Truncated(ValueError):  # noqa: N818  (names the state)
    """An image whose pixels end before its header says."""
