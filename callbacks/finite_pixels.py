"""Make a metric NaN for images with pixels that are not finite."""

from __future__ import annotations

import torch
from torch import Tensor


def are_finite(images: Tensor) -> Tensor:
    """Return whether all pixels of an image are finite: (B,), of (B, 3, H, W) in about [0, 1]."""
    # A sum is finite only if all of its terms are, and takes a thirtieth of `isfinite().all()`.
    return images.flatten(1).sum(1, dtype=torch.float32).isfinite()


def nan_where_not_finite(values: Tensor, images: Tensor) -> Tensor:
    """Return the numbers of images, with NaN for an image with any pixel that is not finite.

    For metrics that clamp, crop or skip parts; the warning about numbers that are not finite then
    names the image.

    Args:
        values: (B,) floating.
        images: (B, 3, H, W).

    Returns:
        (B,) on the device of ``values``.
    """
    return torch.where(are_finite(images).to(values.device), values, torch.nan)
