"""Measure one image: format, size, blur, noise, colour, and hashes of its pixels.

- blur: variance of the Laplacian (4, -1) of luma, in squared levels of 255; lower is more blurred.
  Pech-Pacheco et al., "Diatom autofocusing in brightfield microscopy" (ICPR 2000).
- noise: deviation of white noise in levels of 255, from the green channel: the median of absolute
  diagonal wavelet coefficients over 0.6745. Donoho and Johnstone, "Ideal spatial adaptation by
  wavelet shrinkage" (Biometrika 1994); the wavelet is Daubechies' with 4 taps.
- perceptual hash: signs of 64 low frequencies of the DCT of 32x32 luma, against their median.
  Zauner, "Implementation and benchmarking of perceptual image hash functions" (2010).
"""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import xxhash
from numpy.typing import NDArray

from datamodules.files import jpeg
from datamodules.files.decode import FORMATS, REASONS, DecodedImage, UnreadableImage, decode

ROW = np.dtype(
    [
        ("reason", "u1"),  # 0, or 1 + the place in REASONS: then only bytes and format are known
        ("format", "u1"),  # place in NAMES
        ("mode", "S6"),  # Pillow's
        ("depth", "u1"),  # bits of a channel
        ("alpha", "?"),
        ("grey", "?"),  # channels nowhere more than GREY levels apart
        ("flat", "?"),  # too little contrast for a perceptual hash
        ("bytes", "<u8"),
        ("height", "<u4"),
        ("width", "<u4"),
        ("blur", "<f4"),  # not a number: too small
        ("noise", "<f4"),
        ("digest", "<u8", 2),
        ("phash", "<u8"),
    ]
)
NAMES = (*FORMATS, "unknown")
GREY = 4  # levels of 255
FLAT = 2.0  # deviation of the 32x32 luma, in levels
SIDE = 32  # of the image whose DCT is hashed
STRIP = 64  # rows
ENOUGH = 1 << 22  # pixels that noise is estimated from; of larger images, evenly spread strips
# Highpass of Daubechies' wavelet with two vanishing moments: white noise keeps its deviation.
_ROOT = np.sqrt(3.0)
HIGH = np.array([1 - _ROOT, _ROOT - 3, 3 + _ROOT, -1 - _ROOT], np.float32) / np.float32(
    4 * np.sqrt(2.0)
)
GAUSSIAN = 0.6745  # median of |x| of a standard normal deviate
NOTHING = 1e-3  # coefficients of constant areas, which say nothing about noise
STARTS = (
    (jpeg.START, "JPEG"),
    (b"\x89PNG", "PNG"),
    (b"GIF8", "GIF"),
    (b"BM", "BMP"),
    (b"II", "TIFF"),
    (b"MM", "TIFF"),
)
Row = NDArray[np.void]
Floats = NDArray[np.float32]


def measured(data: bytes, name: str) -> tuple[Row, str]:
    """Measure an image file.

    Args:
        data: The whole file.
        name: The image's name in the message.

    Returns:
        A ``ROW``, and why the image cannot be read; empty if it can.
    """
    row = np.zeros((), ROW)
    row["bytes"], row["format"] = len(data), NAMES.index(format_of(data))
    try:
        image = decode(data, name, srgb=True)  # as training and evaluation see it
    except UnreadableImage as error:
        row["reason"] = 1 + REASONS.index(error.reason)
        return row, str(error)
    _describe(row, image)
    return row, ""


def unreadable(reason: str) -> Row:
    """Return the row of an image whose bytes cannot be read.

    Args:
        reason: One of ``REASONS``.
    """
    row = np.zeros((), ROW)
    row["reason"], row["format"] = 1 + REASONS.index(reason), NAMES.index("unknown")
    return row


def format_of(data: bytes) -> str:
    """Return the format of a file by its first bytes: one of ``NAMES``."""
    for start, name in STARTS:
        if data.startswith(start):
            return name
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "WEBP"
    return "AVIF" if data[4:12] in (b"ftypavif", b"ftypavis") else "unknown"


def _describe(row: Row, image: DecodedImage) -> None:
    rgb = image.rgb
    luma = luma_of(rgb)
    small = cv2.resize(luma, (SIDE, SIDE), interpolation=cv2.INTER_AREA).astype(np.float32)
    row["height"], row["width"] = rgb.shape[:2]
    row["mode"], row["depth"] = image.mode.encode(), image.bit_depth
    row["alpha"], row["grey"] = image.alpha is not None, is_grey(rgb)
    row["blur"], row["noise"] = blur_of(luma), noise_of(rgb[..., 1])
    row["digest"] = digest_of(rgb)
    row["phash"], row["flat"] = phash_of(small), small.std() < FLAT


def luma_of(rgb: NDArray[Any]) -> NDArray[Any]:
    """Return (H, W) luma (BT.601) in levels of 255: uint8, or float32 of 16-bit pixels.

    Args:
        rgb: (H, W, 3), uint8 or uint16.
    """
    luma = cv2.cvtColor(np.ascontiguousarray(rgb), cv2.COLOR_RGB2GRAY)
    return luma if rgb.dtype == np.uint8 else _levels(luma)


def blur_of(luma: NDArray[Any]) -> float:
    """Return the variance of the Laplacian; not a number below 3 pixels.

    Args:
        luma: (H, W) in levels of 255.
    """
    if min(luma.shape) < 3:
        return float("nan")
    kind = cv2.CV_16S if luma.dtype == np.uint8 else cv2.CV_32F
    _, deviation = cv2.meanStdDev(cv2.Laplacian(luma, kind, ksize=1)[1:-1, 1:-1])
    return float(deviation[0, 0]) ** 2


def noise_of(channel: NDArray[Any]) -> float:
    """Return the deviation of white noise in levels of 255; not a number below 8 pixels.

    Args:
        channel: (H, W), uint8 or uint16.
    """
    if min(channel.shape) < 8:
        return float("nan")
    parts = [np.abs(_diagonal(strip)).ravel() for strip in _strips(channel)]
    found = np.concatenate(parts)
    found = found[found > NOTHING]
    return float(np.median(found)) / GAUSSIAN if len(found) else 0.0


def _strips(channel: NDArray[Any]) -> list[NDArray[Any]]:
    every = -(-channel.size // ENOUGH)
    if every == 1 or len(channel) < STRIP:
        return [channel]
    starts = range(0, len(channel), STRIP * every)
    strips = [channel[start : start + STRIP] for start in starts]
    return [strip for strip in strips if len(strip) >= 8]


def _diagonal(channel: NDArray[Any]) -> Floats:
    """Return the diagonal coefficients of one level, those that no border touches."""
    levels = _levels(channel)
    return np.asarray(cv2.sepFilter2D(levels, cv2.CV_32F, HIGH, HIGH)[2:-2:2, 2:-2:2])


def _levels(values: NDArray[Any]) -> Floats:
    scale = np.float32(1.0 if values.dtype == np.uint8 else 1 / 257)
    return np.ascontiguousarray(values).astype(np.float32) * scale


def is_grey(rgb: NDArray[Any]) -> bool:
    """Return whether the channels are nowhere more than ``GREY`` levels of 255 apart.

    Args:
        rgb: (H, W, 3), uint8 or uint16.
    """
    most = GREY if rgb.dtype == np.uint8 else GREY * 257
    for part in (rgb[::16, ::16], rgb):  # a coloured image is mostly known from a few pixels
        red, green, blue = (np.ascontiguousarray(part[..., n]) for n in range(3))
        pairs = ((red, green), (green, blue), (red, blue))
        if any(cv2.absdiff(one, other).max() > most for one, other in pairs):
            return False
    return True


def digest_of(rgb: NDArray[Any]) -> tuple[int, int]:
    """Return the xxh3_128 of size, type and pixels (H, W, 3), as two words of 64 bits."""
    whole = xxhash.xxh3_128(f"{rgb.shape} {rgb.dtype}".encode())
    whole.update(np.ascontiguousarray(rgb).data)
    number = whole.intdigest()
    return number >> 64, number & ((1 << 64) - 1)


def phash_of(small: Floats) -> int:
    """Return the perceptual hash.

    Args:
        small: (32, 32) luma.
    """
    low = cv2.dct(small)[1:9, 1:9].ravel()
    return int.from_bytes(np.packbits(low > np.median(low)).tobytes(), "big")
