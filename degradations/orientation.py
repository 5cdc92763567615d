"""EXIF orientation of images, and how to turn them upright."""

from __future__ import annotations

import logging
from typing import Any, TypeVar, cast

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.ExifTags import Base

log = logging.getLogger(__name__)

Pixels = TypeVar("Pixels", bound=NDArray[Any])

UPRIGHT = 1


def orientation_of(image: Image.Image) -> int:
    """Return the EXIF orientation of an image, 1 (upright) to 8.

    Args:
        image: The image; a TIFF with its pixels loaded, because Pillow turns it upright on loading
            and drops the tag.
    """
    try:
        orientation = image.getexif().get(Base.Orientation, UPRIGHT)
    except Exception as error:  # cameras write broken EXIF, which viewers accept
        log.debug("broken EXIF is read as upright: %s", error)
        return UPRIGHT
    return orientation if orientation in range(1, 9) else UPRIGHT


def upright(pixels: Pixels, orientation: int) -> Pixels:
    """Turn pixels (H, W) or (H, W, C) upright; H and W are exchanged from orientation 5 on.

    Args:
        pixels: Pixels as stored in the file.
        orientation: EXIF orientation.
    """
    if orientation > UPRIGHT:
        import cv2  # twelve times as fast as NumPy

        if orientation >= 5:
            pixels = cast(Pixels, cv2.transpose(pixels))
        flip = {2: 1, 6: 1, 4: 0, 8: 0, 3: -1, 7: -1}.get(orientation)
        pixels = pixels if flip is None else cast(Pixels, cv2.flip(pixels, flip))
    return cast(Pixels, np.ascontiguousarray(pixels))
