"""Decode images of more than 8 bits, which Pillow reduces to 8: PNG, TIFF, AVIF and HEIC."""

from __future__ import annotations

import io
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from files.images.colours import avif_bits
from files.images.faults import Unsupported
from files.images.png import DEPTH, check_size, without_texts
from files.images.tiff import unsupported_tiff

TOP = 65535
LZW = 5  # tag Compression of a TIFF

Bytes = bytes | bytearray | memoryview
Pixels = NDArray[np.uint8] | NDArray[np.uint16]

# Meaning of the fourth sample of a TIFF's pixel (tag ExtraSamples); alpha if the tag is missing.
NO_ALPHA, PREMULTIPLIED, ALPHA = 0, 1, 2


def deep_pixels(image: Image.Image, data: Bytes) -> tuple[Pixels, Pixels | None] | None:
    """Return RGB and, if it has one, alpha in 16 bits of an image of more than 8; None for others.

    Args:
        image: The opened image.
        data: The whole file.

    Raises:
        Unsupported: If a TIFF has samples that are not unsigned integers; or more than 8 bits, and
            not 16, or is then neither grey nor RGB.
        ValueError: If it is damaged; or any error of the decoders.
    """
    if image.format == "PNG" and data[DEPTH] == 16:
        return _png_16(image, data)
    if image.format == "TIFF":
        tags = image.tag_v2  # type: ignore[attr-defined]
        bits = tags.get(258, (1,))  # BitsPerSample
        kinds = tags.get(339, (1,))  # SampleFormat
        if max(bits) <= 8 and set(kinds) == {1}:
            return None
        return _tiff_16(image, data, bits, kinds)
    if image.format == "AVIF" and avif_bits(data) > 8:
        return _avif(data, avif_bits(data))
    if image.format == "HEIF" and image.info["bit_depth"] > 8:
        return _heic(data, image.info["bit_depth"])
    return None


def eight_bits(pixels: Pixels) -> NDArray[np.uint8]:
    """Round 16 bits to 8; 8-bit pixels are returned as they are."""
    if pixels.dtype == np.uint8:
        return cast("NDArray[np.uint8]", pixels)
    return ((pixels.astype(np.uint32) + 128) // 257).astype(np.uint8)


def _png_16(image: Image.Image, data: Bytes) -> tuple[Pixels, Pixels | None]:
    pixels = _opencv_16(without_texts(data))
    if pixels is None:
        image.load()  # its error names the problem; OpenCV's does not
        check_size(data)
        raise ValueError("the 16-bit PNG is damaged")
    rgb, alpha = _split(pixels)
    hidden = image.info.get("transparency")
    if alpha is None and isinstance(hidden, int):  # a level of grey; OpenCV knows only a colour
        alpha = np.where(rgb[..., 0] == hidden, 0, TOP).astype(np.uint16)
    return rgb, alpha


def _tiff_16(
    image: Image.Image, data: Bytes, bits: tuple[int, ...], kinds: tuple[int, ...]
) -> tuple[Pixels, Pixels | None]:
    import tifffile  # here, as its import is slow and few images have 16 bits

    if set(bits) != {16} or set(kinds) != {1} or image.mode[:4] not in ("I;16", "RGB", "RGBA"):
        raise Unsupported(unsupported_tiff(io.BytesIO(data)))
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        page = cast(Any, file.pages[image.tell()])
        is_planar = page.planarconfig == 2
        is_inverted = page.photometric == 0
        extra = int(page.extrasamples[0]) if page.extrasamples else ALPHA
        # tifffile reads LZW only with a further package; OpenCV reads it, but not planes.
        is_for_opencv = page.compression == LZW and not is_planar and image.tell() == 0
        pixels = _opencv_16(data) if is_for_opencv else None
        if pixels is None:
            pixels = page.asarray()
    if is_planar and pixels.ndim == 3:
        pixels = np.moveaxis(pixels, 0, -1)
    pixels = pixels.astype(np.uint16)  # big-endian files, too
    if is_inverted:
        pixels = TOP - pixels
    rgb, alpha = _split(pixels)
    if alpha is None or extra == NO_ALPHA:
        return rgb, None
    if extra == PREMULTIPLIED:
        rgb = _divided(rgb, alpha)
    return rgb, alpha


def _avif(data: Bytes, bits: int) -> tuple[Pixels, Pixels | None] | None:
    pixels = _opencv_16(data)
    if pixels is None:  # damaged, or OpenCV is built without AVIF
        return None
    return _split(_widened(pixels, bits))


def _heic(data: Bytes, bits: int) -> tuple[Pixels, Pixels | None]:
    import pillow_heif  # optional

    stored = {"convert_hdr_to_8bit": False, "hdr_to_16bit": False}
    image = pillow_heif.open_heif(io.BytesIO(data), **stored)
    rgb, alpha = _split(_widened(np.asarray(image, np.uint16), bits))
    if alpha is not None and image.mode.startswith("RGBa"):
        rgb = _divided(rgb, alpha)
    return rgb, alpha


def _widened(pixels: NDArray[np.uint16], bits: int) -> NDArray[np.uint16]:
    """Scale integers of some bits to 16."""
    top = 2**bits - 1
    return ((pixels * np.uint32(TOP) + top // 2) // top).astype(np.uint16)


def _opencv_16(data: Bytes) -> NDArray[np.uint16] | None:
    import cv2  # as above

    pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if pixels is None or pixels.dtype != np.uint16:
        return None
    if pixels.ndim == 3 and pixels.shape[2] == 3:
        pixels = cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB)
    elif pixels.ndim == 3:
        pixels = cv2.cvtColor(pixels, cv2.COLOR_BGRA2RGBA)
    return cast(NDArray[np.uint16], pixels)


def _split(pixels: NDArray[np.uint16]) -> tuple[NDArray[np.uint16], NDArray[np.uint16] | None]:
    if pixels.ndim == 2:
        pixels = pixels[..., None]
    channels = pixels.shape[2]
    if channels == 1:
        return np.repeat(pixels, 3, axis=2), None
    rgb = np.ascontiguousarray(pixels[..., :3])
    alpha = np.ascontiguousarray(pixels[..., 3]) if channels == 4 else None
    return rgb, alpha


def _divided(rgb: NDArray[np.uint16], alpha: NDArray[np.uint16]) -> NDArray[np.uint16]:
    """Divide premultiplied colours by alpha; 0 where alpha is 0."""
    share = np.maximum(alpha, 1).astype(np.float64)[..., None] / TOP
    colours = np.rint(rgb / share)
    colours = np.minimum(colours, TOP).astype(np.uint16)
    is_visible = alpha[..., None] > 0
    return colours * is_visible
