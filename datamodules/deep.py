"""Pixels of 16 bits: PNG by OpenCV and TIFF by tifffile, for Pillow would cut them down to 8."""

from __future__ import annotations

import io
import struct
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from datamodules import jpeg
from datamodules.deep_profiles import TOP

Pixels = NDArray[np.uint8] | NDArray[np.uint16]
# What the fourth sample of a TIFF's pixel is (its tag ExtraSamples); where nothing is said, alpha.
NO_ALPHA, PREMULTIPLIED, ALPHA = 0, 1, 2


class Unsupported(ValueError):  # noqa: N818  (it says what the picture is)
    """A whole picture of a kind that is not read."""


def png_16(image: Image.Image, data: jpeg.Bytes) -> tuple[Pixels, Pixels | None]:
    """RGB and, if there is one, alpha of a PNG of 16 bits.

    Args:
        image: The opened picture.
        data: The whole file.

    Raises:
        ValueError: It is damaged; or what Pillow says of it.
    """
    pixels = _opencv_16(data)
    if pixels is None:
        image.load()  # says what is wrong; OpenCV does not
        raise ValueError("the 16-bit PNG is damaged")
    rgb, alpha = _split(pixels)
    hidden = image.info.get("transparency")
    if alpha is None and isinstance(hidden, int):  # a level of grey; OpenCV knows only a colour
        alpha = np.where(rgb[..., 0] == hidden, 0, TOP).astype(np.uint16)
    return rgb, alpha


def bits_of_tiff(image: Image.Image) -> tuple[int, ...]:
    """Bits of each sample of an opened TIFF."""
    return tuple(image.tag_v2.get(258, (1,)))  # type: ignore[attr-defined]  # BitsPerSample


def tiff_16(image: Image.Image, data: jpeg.Bytes) -> tuple[Pixels, Pixels | None]:
    """RGB and, if there is one, alpha of a TIFF of more than 8 bits.

    Args:
        image: The opened picture.
        data: The whole file.

    Raises:
        Unsupported: Its samples are no unsigned integers of 16 bits, or neither grey nor RGB.
        ValueError: It is damaged; tifffile raises other errors, too.
    """
    import tifffile  # here, because it takes long to import and few pictures have 16 bits

    bits, kinds = bits_of_tiff(image), image.tag_v2.get(339, (1,))  # type: ignore[attr-defined]
    if set(bits) != {16} or set(kinds) != {1} or image.mode[:4] not in ("I;16", "RGB", "RGBA"):
        raise Unsupported(_unsupported(f"mode {image.mode} with {bits} bits a sample"))
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        page = file.pages.first
        planar, inverted = page.planarconfig == 2, page.photometric == 0
        extra = int(page.extrasamples[0]) if page.extrasamples else ALPHA
        try:
            pixels = page.asarray()
        except ValueError as error:
            # tifffile knows LZW only with a further package; OpenCV knows it, but not planes.
            read = None if planar or "imagecodecs" not in str(error) else _opencv_16(data)
            if read is None:
                raise
            pixels = read
    pixels = np.moveaxis(pixels, 0, -1) if planar and pixels.ndim == 3 else pixels
    pixels = pixels.astype(np.uint16)  # out of big-endian files, too
    rgb, alpha = _split(TOP - pixels if inverted else pixels)
    if alpha is None or extra == NO_ALPHA:
        return rgb, None
    return (_divided(rgb, alpha) if extra == PREMULTIPLIED else rgb), alpha


def kind_of_tiff(data: bytes) -> str | None:
    """What a TIFF is that Pillow does not open, for a message; None if it is none, or broken."""
    import tifffile  # as above

    try:
        with tifffile.TiffFile(io.BytesIO(data)) as file:
            page = file.pages.first
            if page.dtype is None or file.is_bigtiff or not _is_whole(page, data):
                return None
            return _unsupported(f"{page.samplesperpixel} samples of {page.dtype} a pixel")
    except Exception:  # fed with foreign bytes it raises anything
        return None


def _is_whole(page: Any, data: bytes) -> bool:
    """Whether a page's directory (of no BigTIFF), what it points at, and its pixels are there."""
    (count,) = struct.unpack_from(page.parent.byteorder + "H", data, page.offset)
    ends = [page.offset + 2 + 12 * count + 4]
    ends += [tag.valueoffset + tag.valuebytecount for tag in page.tags]
    ends += map(sum, zip(page.dataoffsets, page.databytecounts, strict=True))
    return len(page.tags) == count and max(ends) <= len(data)


def _unsupported(kind: str) -> str:
    return (
        f"TIFF of {kind}; of TIFFs with more than 8 bits, those of 16-bit unsigned integers in "
        "grey or RGB can be read: convert it"
    )


def _opencv_16(data: jpeg.Bytes) -> NDArray[np.uint16] | None:
    import cv2  # as above

    pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if pixels is None or pixels.dtype != np.uint16:
        return None
    if pixels.ndim == 3:
        pixels[..., :3] = pixels[..., 2::-1].copy()  # BGR(A) to RGB(A)
    return cast(NDArray[np.uint16], pixels)


def _split(pixels: NDArray[np.uint16]) -> tuple[NDArray[np.uint16], NDArray[np.uint16] | None]:
    if pixels.ndim == 2 or pixels.shape[2] == 1:
        return np.repeat(pixels.reshape(*pixels.shape[:2], 1), 3, axis=2), None
    alpha = np.ascontiguousarray(pixels[..., 3]) if pixels.shape[2] == 4 else None
    return np.ascontiguousarray(pixels[..., :3]), alpha


def _divided(rgb: NDArray[np.uint16], alpha: NDArray[np.uint16]) -> NDArray[np.uint16]:
    """Colours as they are, of those that were multiplied by alpha; 0 where nothing is seen."""
    share = np.maximum(alpha, 1).astype(np.float64)[..., None] / TOP
    return np.minimum(np.rint(rgb / share), TOP).astype(np.uint16) * (alpha > 0)[..., None]
