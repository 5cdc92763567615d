"""Small images of a measured set, for its page."""

from __future__ import annotations

import io
import logging

import numpy as np
from PIL import Image

from datamodules.files.decode import decode
from datamodules.stats.summary import Images

log = logging.getLogger(__name__)
SIDE = 160  # pixels


def small_image(images: Images, number: int, cut: bool) -> bytes | None:
    """Return a WebP of an image; None if it can no longer be read, which is logged.

    Args:
        images: All images.
        number: Number of the image.
        cut: Its middle, unscaled, in place of the whole; a smaller image would hide blur and noise.
    """
    name = images.name(number)
    try:
        rgb = decode(images.place(number).read(), name, srgb=True).rgb
    except (OSError, ValueError, IndexError) as error:
        log.warning("the page does not show %s: %s", name, error)
        return None
    if rgb.dtype != np.uint8:
        rgb = (rgb >> 8).astype(np.uint8)
    if cut:
        top, left = (max(0, (side - SIDE) // 2) for side in rgb.shape[:2])
        rgb = rgb[top : top + SIDE, left : left + SIDE]
    image = Image.fromarray(np.ascontiguousarray(rgb))
    image.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    file = io.BytesIO()
    image.save(file, "WEBP", quality=90 if cut else 80)
    return file.getvalue()
