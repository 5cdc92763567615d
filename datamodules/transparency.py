"""What lies under fully transparent pixels, where nobody sees it but a method."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8] | NDArray[np.uint16]


def without_hidden_colours(rgb: Pixels, alpha: Pixels) -> Pixels:
    """Give each pixel that nobody sees the colour of the nearest one that is seen.

    Programs leave anything there, such as black or what was erased. A method that enlarges looks
    around each pixel, and would carry it into those that are seen.

    Args:
        rgb: (H, W, 3).
        alpha: (H, W), 0 where nothing is seen.

    Returns:
        (H, W, 3), a new array where anything changes.

    Raises:
        ValueError: ``alpha`` is of another shape.
    """
    if alpha.shape != rgb.shape[:2]:
        raise ValueError(
            f"a Source gave meta['alpha'] as {alpha.shape} with an image of {rgb.shape}: its "
            "height and width are to be the image's, and nothing more"
        )
    hidden = alpha == 0
    if not hidden.any() or hidden.all():
        return rgb
    import cv2  # here, because it takes long to import and few images are transparent

    _, nearest = cv2.distanceTransformWithLabels(
        hidden.astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_5, labelType=cv2.DIST_LABEL_PIXEL
    )
    colours = np.zeros((int(nearest.max()) + 1, 3), rgb.dtype)
    colours[nearest[~hidden]] = rgb[~hidden]
    filled = rgb.copy()
    filled[hidden] = colours[nearest[hidden]]
    return filled
