"""Pixels of 8 and 16 bits."""

from __future__ import annotations

from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

Bytes = bytes | bytearray | memoryview
Pixels = NDArray[np.uint8] | NDArray[np.uint16]


def eight_bits(pixels: Pixels) -> NDArray[np.uint8]:
    """Round 16 bits to 8; 8-bit pixels are returned as they are."""
    if pixels.dtype == np.uint8:
        return cast("NDArray[np.uint8]", pixels)
    return ((pixels.astype(np.uint32) + 128) // 257).astype(np.uint8)


def scaled(levels: NDArray[Any], bits: int) -> Pixels:
    """Return levels of 1 to 16 bits scaled to 8 bits, or to 16 if they have more than 8.

    Args:
        levels: Unsigned integers, or booleans.
        bits: From 1 to 16.
    """
    if bits in (8, 16):
        return levels
    top = 2**bits - 1
    kind = np.uint8 if bits < 8 else np.uint16
    return ((levels * np.uint32(np.iinfo(kind).max) + top // 2) // top).astype(kind)


def divided(colours: Pixels, alpha: Pixels) -> Pixels:
    """Divide premultiplied colours (H, W, C) by alpha (H, W); 0 where alpha is 0."""
    top = np.iinfo(colours.dtype).max
    opacity = np.maximum(alpha, 1).astype(np.float64)[..., None] / top
    straight = np.minimum(np.rint(colours / opacity), top).astype(colours.dtype)
    return cast(Pixels, straight * (alpha[..., None] > 0))
