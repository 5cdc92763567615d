"""Estimate the noise of a photograph.

An estimate, not a measurement: texture counts as noise, and smoothed noise (after a resize or JPEG)
is underestimated.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

_ROUNDING = 1 / 12 + 1 / 48  # variance of rounding to 8 bits, and of `spread`


def noise_level(image: Tensor) -> float:
    """Return the standard deviation of white noise in 8-bit levels, the mean over channels.

    The estimate is the median absolute value of the diagonal Haar band, divided by 0.6745. Blocks
    with a clipped pixel are skipped, because clipping cuts noise; the variance of rounding to 8
    bits is subtracted. Texture adds to the band: a clean photograph has about 1 to 4 levels. Strong
    noise in dark photographs is underestimated (35 for 40), because the remaining blocks are less
    noisy.

    Args:
        image: (1, C, H, W) in [0, 1], at least 2 x 2 px.

    Returns:
        The level; NaN if everything is clipped.

    Source: Donoho and Johnstone, "Ideal spatial adaptation by wavelet shrinkage" (Biometrika 1994).
    """
    H, W = image.shape[-2:]
    x = image[0, :, : H // 2 * 2, : W // 2 * 2].double() * 255.0
    a, b, c, d = (x[:, i::2, j::2] for i in (0, 1) for j in (0, 1))
    band = (a - b - c + d) / 2
    stack = torch.stack((a, b, c, d))
    inside = (stack.amin(0) > 0.5) & (stack.amax(0) < 254.5)
    levels = []
    for colour, valid in zip(band, inside, strict=True):
        values = colour[valid]
        if values.numel():
            # 8-bit pixels give steps of half a level, which would quantise the median: spread them
            # evenly, by multiples of the golden ratio.
            spread = (torch.arange(len(values)) * 0.6180339887498949) % 1.0 - 0.5
            level = (values + 0.5 * spread).abs().median().item() / 0.6744897501960817
            levels.append(math.sqrt(max(level**2 - _ROUNDING, 0.0)))
    return sum(levels) / len(levels) if levels else math.nan
