"""Rows and runs that tests start from."""

from __future__ import annotations

from typing import Any

import numpy as np

from callbacks.results.files import append
from callbacks.results.rows import Row

KEYS = [f"set5/{number}" for number in range(12)]


def row(**changes: Any) -> Row:
    """The number of a dataset; with ``image``, that of an image."""
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


def run(folder, values, seeds=(None,), keys=KEYS, digests=None, mean=None, **changes):
    """Write a run with one more metric; return where.

    Args:
        folder: The run.
        values: Of each image, or of each seed and image.
        seeds: The seeds.
        keys: Names of the images.
        digests: Of the images, by name.
        mean: Changes of the dataset's row.
        changes: Changes of all rows.
    """
    values = np.broadcast_to(np.asarray(values, float), (len(seeds), len(keys)))
    number = {"value": float(values.mean()), "n": len(keys), **changes, **(mean or {})}
    if len(seeds) > 1:
        number |= {"seeds": list(seeds), "std": 0.1}
    rows = [row(**number)]
    for seed, of_seed in zip(seeds, values, strict=True):
        for key, value in zip(keys, of_seed, strict=True):
            digest = (digests or {}).get(key)
            rows.append(row(image=key, value=float(value), seed=seed, digest=digest, **changes))
    append(folder, rows)
    return str(folder)
