"""Colour profiles and orientation of image files."""

from __future__ import annotations

import io
import logging
from functools import lru_cache
from typing import Any, TypeVar, cast

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms
from PIL.ExifTags import Base

log = logging.getLogger(__name__)

# Pillow modes by the colour space that a profile names.
SPACES = {b"RGB ": "RGB", b"GRAY": "L", b"CMYK": "CMYK"}
# Largest change of a colour, in levels, by variants of sRGB (a table for the curve, or few digits).
# Display P3 changes some colours by 70.
SAME = 2


def space_of(icc: bytes) -> str | None:
    """Return the Pillow mode of the pixels that a profile is for: RGB, L or CMYK; else None."""
    return SPACES.get(icc[16:20])


def to_srgb(pixels: NDArray[np.uint8], icc: bytes) -> NDArray[np.uint8] | None:
    """Convert pixels by their profile to sRGB, by relative colorimetry.

    Args:
        pixels: (H, W, 3) RGB, (H, W) grey or (H, W, 4) CMYK with 255 for full ink, as given by
            ``space_of``.
        icc: The profile of the pixels.

    Returns:
        (H, W, 3); or None if the profile is sRGB or broken, so that the pixels are used unchanged.
    """
    mode = space_of(icc)
    transform = _transform_to_srgb(icc, mode) if mode else None
    if mode is None or transform is None:
        return None
    return np.asarray(transform.apply(image_of(pixels, mode)))


def image_of(pixels: NDArray[np.uint8], mode: str) -> Image.Image:
    """Make a Pillow image of pixels without a copy.

    Args:
        pixels: (H, W) or (H, W, C) in [0, 255].
        mode: Pillow mode; four channels may be RGBA or CMYK.
    """
    size = pixels.shape[1::-1]
    return Image.frombuffer(mode, size, np.ascontiguousarray(pixels), "raw", mode, 0, 1)


@lru_cache(maxsize=16)  # building a transform takes a millisecond, and a data set has few profiles
def _transform_to_srgb(icc: bytes, mode: str) -> ImageCms.ImageCmsTransform | None:
    """Return Pillow's transform of pixels by their profile; None if it is sRGB or broken."""
    try:
        profile = ImageCms.ImageCmsProfile(io.BytesIO(icc))
        srgb = ImageCms.createProfile("sRGB")
        intent = ImageCms.Intent.RELATIVE_COLORIMETRIC
        transform = ImageCms.buildTransform(profile, srgb, mode, "RGB", intent)
        is_srgb = mode != "CMYK" and _keeps_colours(transform, mode)
        return None if is_srgb else transform
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError) as error:
        log.debug("a broken colour profile is ignored: %s", error)
        return None


def _keeps_colours(transform: ImageCms.ImageCmsTransform, mode: str) -> bool:
    """Return whether a transform changes no colour of a grid of them by more than ``SAME``."""
    levels = np.linspace(0, 255, 18).round().astype(np.uint8)
    if mode == "L":
        pixels = levels[None]
        colours = np.repeat(pixels[..., None], 3, axis=2)
    else:
        pixels = np.stack(np.meshgrid(levels, levels, levels), axis=-1).reshape(1, -1, 3)
        colours = pixels
    converted = np.asarray(transform.apply(image_of(pixels, mode)))
    change = np.abs(converted.astype(int) - colours)
    return bool(change.max() <= SAME)


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
