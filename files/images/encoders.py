"""Encode images."""

from __future__ import annotations

import io
import zlib
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from files.images.png import HEADER, chunk_of


def encoded_by_pillow(pixels: NDArray[Any], format: str, **options: Any) -> bytes:
    """Return the bytes of an image file that Pillow encodes.

    Args:
        pixels: 8-bit pixels, (H, W) grey or (H, W, C).
        format: Pillow's name of the format, such as PNG.
        options: Pillow's options of it.
    """
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format, **options)
    return buffer.getvalue()


def png_of_16_bits(pixels: NDArray[np.uint16]) -> bytes:
    """Return the bytes of a PNG of (H, W, C) 16-bit pixels: grey, RGB, or RGB with alpha."""
    # Pillow has no 16-bit colour.
    import imagecodecs  # here, as its import is slow and few images have 16 bits

    quick = {"strategy": imagecodecs.PNG.STRATEGY.RLE, "filter": imagecodecs.PNG.FILTER.SUB}
    return bytes(imagecodecs.png_encode(np.ascontiguousarray(pixels), level=1, **quick))


def with_chunks(png: bytes, *chunks: bytes) -> bytes:
    """Return a PNG with chunks after its header, each given as its name and content."""
    return b"".join([png[:HEADER], *map(chunk_of, chunks), png[HEADER:]])


def profile_chunk(icc: bytes) -> bytes:
    """Return name and content of a PNG's chunk with a colour profile, for ``with_chunks``."""
    return b"iCCPicc\0\0" + zlib.compress(icc)
