"""SWD of outputs that a row has kept: of all images, and of resampled ones, for an interval.

A distance of sets has no number an image, so the bootstrap resamples the images and computes the
distance of each resample. Sorting the projections once is enough for all of them: a resample only
weights an image's points, and along a direction the 1-Wasserstein distance is the area between two
weighted distribution functions. The area is summed over ``NODES`` quantiles instead of all points.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from callbacks.metrics.sets import read_image
from callbacks.metrics.swd import SWD
from degradations.draws import seed_of

NODES = 1024  # where the distribution functions are compared, along each direction
DIRECTIONS = 64
Numbers = NDArray[np.float64]


def features(folder: Path, keys: Sequence[str]) -> Tensor:
    """(N, 1, patches, D) patches of the finest level, at the places that belong to each key.

    Args:
        folder: Holds ``<key>.png``.
        keys: Names of the pictures.
    """
    metric = SWD(levels=1)
    found = [
        metric.finite_features(read_image(folder / f"{key}.png"), {"key": [key]}) for key in keys
    ]
    return torch.cat(found).double()


def distance(sr: Tensor, hr: Tensor) -> float:
    """What ``callbacks.SWD`` gives for these features."""
    return SWD(levels=1).distance(sr, hr)


def resampled(sr: Tensor, hr: Tensor, weights: Numbers) -> Numbers:
    """The distance for each way to weight the images.

    Args:
        sr: (N, 1, patches, D) of the outputs.
        hr: The same of their HR.
        weights: (draws, N): how often each image is in each resample; rows sum to N.

    Returns:
        (draws,) distances.
    """
    generator = np.random.default_rng(seed_of("swd", "directions"))
    lines = generator.standard_normal((sr.shape[-1], DIRECTIONS))
    lines /= np.linalg.norm(lines, axis=0)
    a, b = (cast(Numbers, x[:, 0].numpy()) @ lines for x in (sr, hr))  # (N, patches, directions)
    total = np.zeros(len(weights))
    for direction in range(DIRECTIONS):
        total += _areas(a[..., direction], b[..., direction], weights)
    return total / DIRECTIONS


def _areas(a: Numbers, b: Numbers, weights: Numbers) -> Numbers:
    """(draws,) areas between the distribution functions of (N, P) and (N, P) points."""
    nodes = np.quantile(np.concatenate([a.ravel(), b.ravel()]), np.linspace(0, 1, NODES))
    between = (nodes[1:] + nodes[:-1]) / 2
    below = np.stack(
        [
            np.searchsorted(np.sort(x), between, "right")
            - np.searchsorted(np.sort(y), between, "right")
            for x, y in zip(a, b, strict=True)
        ]
    )
    return np.abs(weights @ (below / a.size)) @ np.diff(nodes)


def counts(images: int, draws: int, seed: int) -> Numbers:
    """(draws, images): how often each image is in each resample."""
    drawn = np.random.default_rng(seed).integers(0, images, (draws, images))
    return np.stack([np.bincount(row, minlength=images) for row in drawn]).astype(np.float64)
