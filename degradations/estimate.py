"""How noisy and how blurred a photograph is, estimated from itself.

Estimates, not measurements: texture counts as noise, noise that was smoothed (by a resize, by JPEG)
counts for less than it was. They serve to compare two sets of photographs of one kind.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

_ROUNDING = 1 / 12 + 1 / 48  # variance that rounding to 8 bits adds, and that of `spread`


def noise_level(picture: Tensor) -> float:
    """Standard deviation of white noise, in 8-bit levels; the mean of the colours' own.

    The median of the absolute values of the diagonal Haar band, divided by 0.6745. Blocks with a
    clipped pixel are left out, as noise is cut off there; what rounding to 8 bits adds is taken
    off. Texture fills part of that band: a clean photograph has about 1 to 4 levels. Strong noise
    in dark photographs is underestimated (35 for 40): the blocks that are left are calm ones.

    Args:
        picture: (1, C, H, W) in [0, 1], at least 2 x 2 px.

    Returns:
        The level; NaN where everything is clipped.

    Source: Donoho and Johnstone, "Ideal spatial adaptation by wavelet shrinkage" (Biometrika 1994).
    """
    H, W = picture.shape[-2:]
    x = picture[0, :, : H // 2 * 2, : W // 2 * 2].double() * 255.0
    a, b, c, d = (x[:, i::2, j::2] for i in (0, 1) for j in (0, 1))
    band = (a - b - c + d) / 2
    stack = torch.stack((a, b, c, d))
    inside = (stack.amin(0) > 0.5) & (stack.amax(0) < 254.5)
    levels = []
    for colour, valid in zip(band, inside, strict=True):
        values = colour[valid]
        if values.numel():
            # 8-bit pixels leave steps of half a level, between which a median cannot lie: spread
            # them evenly, by the golden ratio's multiples.
            spread = (torch.arange(len(values)) * 0.6180339887498949) % 1.0 - 0.5
            level = (values + 0.5 * spread).abs().median().item() / 0.6744897501960817
            levels.append(math.sqrt(max(level**2 - _ROUNDING, 0.0)))
    return sum(levels) / len(levels) if levels else math.nan
