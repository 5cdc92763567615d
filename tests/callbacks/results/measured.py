"""Rows that tests start from."""

from __future__ import annotations

from typing import Any

from callbacks.results.rows import Row


def row(**changes: Any) -> Row:
    """Return the number of a dataset; with ``image``, that of an image."""
    base: dict[str, Any] = {
        "dataset": "set5",
        "scale": 2.0,
        "metric": "psnr",
        "protocol": {"color": "y", "border": "scale"},
        "checkpoint": "a.ckpt",
        "value": 38.0,
    }
    if "image" not in changes:
        base |= {"n": 5, "higher_is_better": True}
    return Row(**(base | changes))
