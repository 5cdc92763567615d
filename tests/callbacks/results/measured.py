"""Rows and runs that tests start from."""

from __future__ import annotations

import numpy as np

from callbacks.results.files import append
from callbacks.results.rows import Row

KEYS = [f"set5/{number}" for number in range(12)]


def row(**changes):
    """PSNR of set5 x2 on Y; with ``image``, that of an image."""
    base = {
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


def run(folder, values, keys=KEYS, digests=None, mean=None, **changes):
    """Write a run with one more metric; return where.

    Args:
        folder: The run.
        values: Of each image.
        keys: Names of the images.
        digests: Of the images, by name.
        mean: Changes of the dataset's row.
        changes: Changes of all rows.
    """
    number = {"value": float(np.mean(values)), "n": len(keys), **changes, **(mean or {})}
    rows = [row(**number)]
    for key, value in zip(keys, values, strict=True):
        digest = (digests or {}).get(key)
        rows.append(row(image=key, value=float(value), digest=digest, **changes))
    append(folder, rows)
    return str(folder)
