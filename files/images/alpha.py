"""Transparent pixels: on white, or with colours that may spread."""

from __future__ import annotations

from typing import Any, TypeVar, cast

import numpy as np
from numpy.typing import NDArray

Pixels = TypeVar("Pixels", bound=NDArray[Any])


# Colours below this share of the largest alpha are hidden from a method, and enlarged by bicubic.
HIDDEN = 1 / 4


def without_hidden_colours(rgb: Pixels, alpha: NDArray[Any]) -> Pixels:
    """Return an image whose hardly visible pixels have the colour of the nearest visible one.

    Programs leave arbitrary colours there, such as black or erased content. A method looks at the
    neighbourhood of each pixel, and would spread them into visible pixels.

    Args:
        rgb: (H, W, 3).
        alpha: (H, W), 0 for fully transparent pixels.

    Returns:
        (H, W, 3); a new array if anything changes.
    """
    hidden = alpha < HIDDEN * alpha.max()
    if not hidden.any():
        return rgb
    import cv2  # here, as its import is slow and few images are transparent

    _, nearest = cv2.distanceTransformWithLabels(
        hidden.astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_5, labelType=cv2.DIST_LABEL_PIXEL
    )
    colours = np.zeros((int(nearest.max()) + 1, 3), rgb.dtype)
    colours[nearest[~hidden]] = rgb[~hidden]
    filled = rgb.copy()
    filled[hidden] = colours[nearest[hidden]]
    return filled


def on_white(rgb: Pixels, alpha: NDArray[Any]) -> Pixels:
    """Return an image composited on white.

    Args:
        rgb: (H, W, C) integer levels; C is 1 or 3.
        alpha: (H, W, 1) levels of the same type.
    """
    white = np.iinfo(rgb.dtype).max
    mixed = white - (white - rgb) * (alpha / np.float32(white))
    return cast(Pixels, mixed.round().astype(rgb.dtype))
