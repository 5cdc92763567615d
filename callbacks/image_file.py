"""Pixels to picture files: 8 and 16 bit, grey or RGB, with alpha and colour profile, atomically."""

from __future__ import annotations

import io
import os
import struct
import zlib
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Format = Literal["png", "jpg", "webp", "tiff"]
Pixels = NDArray[np.uint8] | NDArray[np.uint16]

EIGHT_BIT: tuple[Format, ...] = ("jpg", "webp")  # formats that hold no 16 bits
OPAQUE: tuple[Format, ...] = ("jpg",)  # formats that hold no alpha
OPTIONS: dict[Format, dict[str, Any]] = {
    "png": {"format": "PNG"},
    "jpg": {"format": "JPEG", "subsampling": 0},
    "webp": {"format": "WEBP"},
    "tiff": {"format": "TIFF", "compression": "tiff_adobe_deflate"},
}
PNG_HEADER = 33  # bytes of the signature and of the IHDR chunk


def write_image(
    path: Path, pixels: Pixels, icc: bytes | None, format: Format, quality: int
) -> None:
    """Write a picture beside its place and move it there: no half-written file is ever seen.

    Args:
        path: Where to; its folder is made.
        pixels: (H, W, C) uint8 or uint16; C is 1 (grey), 2 (with alpha), 3 (RGB) or 4 (with alpha).
        icc: Colour profile; left out if it is for another kind of pixels.
        format: Kind of file. ``jpg`` holds no alpha; ``jpg`` and ``webp`` hold 8 bit only.
        quality: Of ``jpg`` and ``webp``, 1 to 100.
    """
    data = encode(pixels, fitting_profile(icc, pixels.shape[2]), format, quality)
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}.tmp")  # hidden: never taken for a picture
    try:
        beside.write_bytes(data)
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)


def encode(pixels: Pixels, icc: bytes | None, format: Format, quality: int) -> bytes:
    """The bytes of a picture file. Args as ``write_image``.

    Raises:
        ValueError: The format cannot hold these pixels.
    """
    channels, deep = pixels.shape[2], pixels.dtype == np.uint16
    if (deep and format in EIGHT_BIT) or (channels in (2, 4) and format in OPAQUE):
        raise ValueError(f"{format} cannot hold {channels} channels of {pixels.dtype}")
    if deep:
        if channels == 2:
            pixels = pixels[..., [0, 0, 0, 1]]  # Pillow reads no 16-bit grey with alpha
        return _png_16(pixels, icc) if format == "png" else _tiff_16(pixels, icc)
    options = dict(OPTIONS[format])
    if format in ("jpg", "webp"):
        options["quality"] = quality
    if icc:
        options["icc_profile"] = icc
    buffer = io.BytesIO()
    Image.fromarray(pixels[..., 0] if channels == 1 else pixels).save(buffer, **options)
    return buffer.getvalue()


def fitting_profile(icc: bytes | None, channels: int) -> bytes | None:
    """``icc`` if it describes pixels of this many channels (its header names a colour space)."""
    space = b"RGB " if channels >= 3 else b"GRAY"
    return icc if icc and icc[16:20] == space else None


def _png_16(pixels: Pixels, icc: bytes | None) -> bytes:
    # Pillow has no 16-bit colour. OpenCV has, but no profile: a chunk right after the header.
    import cv2  # here, because it takes long to import and few pictures have 16 bits

    order = {1: [0], 3: [2, 1, 0], 4: [2, 1, 0, 3]}[pixels.shape[2]]
    done, encoded = cv2.imencode(".png", pixels[..., order])
    if not done:
        raise ValueError(f"OpenCV cannot encode {pixels.shape} {pixels.dtype} as PNG")
    data = encoded.tobytes()
    if not icc:
        return data
    body = b"iCCP" + b"icc\0\0" + zlib.compress(icc)
    chunk = struct.pack(">I", len(body) - 4) + body + struct.pack(">I", zlib.crc32(body))
    return data[:PNG_HEADER] + chunk + data[PNG_HEADER:]


def _tiff_16(pixels: Pixels, icc: bytes | None) -> bytes:
    import tifffile  # here for the same reason

    channels = pixels.shape[2]
    buffer = io.BytesIO()
    tifffile.imwrite(
        buffer,
        pixels[..., 0] if channels == 1 else pixels,
        photometric="rgb" if channels >= 3 else "minisblack",
        planarconfig=None if channels == 1 else "contig",
        extrasamples=["unassalpha"] if channels == 4 else None,
        compression="zlib",
        iccprofile=icc,
        metadata=None,
    )
    return buffer.getvalue()
