"""Pictures that are smaller than a metric's window: without a number, and named."""

from __future__ import annotations

import logging
import math

import torch
from torch import Tensor

from callbacks.base import Measured

log = logging.getLogger(__name__)

TOO_SMALL = -math.inf  # in a number's place; NaN is that of a picture with a broken pixel


def no_numbers(images: Tensor) -> Tensor:
    """(B,) float64, what a metric gives for a batch (B, ...) of pictures below its window."""
    return torch.full((len(images),), TOO_SMALL, dtype=torch.float64)


def large_enough(metric: str, dataset: str, images: Measured, window: str) -> Measured:
    """The pictures that have a number; the others are named in a warning.

    Args:
        metric: Its name in the logs.
        dataset: The dataset's name.
        images: What was measured of each picture, by key.
        window: The smallest picture, in words.
    """
    kept = {key: value for key, value in images.items() if value != TOO_SMALL}
    small = [key for key in images if key not in kept]
    if small:
        shown = ", ".join(small[:5]) + (", ..." if len(small) > 5 else "")
        left = f"its mean is of the other {len(kept)}" if kept else "there is no number"
        message = "%s of %s: %d of %d pictures are smaller than %s, and %s: %s"
        log.warning(message, metric, dataset, len(small), len(images), window, left, shown)
    return kept
