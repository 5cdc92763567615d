"""What a page shows of an image: its whole, reduced, or a square of it."""

from __future__ import annotations

import math
from pathlib import Path
from typing import cast

import numpy as np
from PIL import Image

from files.images.colours import profile_for_mode
from files.images.decode import DecodedImage
from files.images.deep import Pixels, eight_bits

SIDE = 2000  # pixels that a side of a reduced image has at most
SQUARE = 640  # pixels of a side of a square of an enlarged image
BAND = 64  # rows that are reduced at a time
Size = tuple[int, int]  # height, width


class Reduction:
    """Takes the rows of an image, and keeps the means of squares of its pixels.

    Attributes:
        size: (H, W) of the image; (0, 0) before its first rows.
        height: How many rows came.
    """

    def __init__(self) -> None:
        self.size = (0, 0)
        self.height = 0
        self._means: list[Pixels] = []
        self._rest: Pixels | None = None

    def add(self, rows: Pixels, size: Size) -> None:
        """Take the next rows, (rows, W, C), of an image of (H, W)."""
        self.size = size
        self.height += len(rows)
        for top in range(0, len(rows), BAND):  # copies of a whole strip would be large
            self._add(rows[top : top + BAND], size)

    def _add(self, rows: Pixels, size: Size) -> None:
        if self._rest is not None:
            rows = np.concatenate([self._rest, rows])
        square = min(math.ceil(max(size) / SIDE), *size)
        height = len(rows) // square
        width = rows.shape[1] // square
        squares = rows[: height * square, : width * square]
        squares = squares.reshape(height, square, width, square, rows.shape[2])
        self._means.append(squares.mean((1, 3)).round().astype(rows.dtype))
        self._rest = rows[height * square :].copy()

    def pixels(self) -> Pixels:
        """Return the result, (h, w, C)."""
        return cast("Pixels", np.concatenate(self._means))


def square_of(source: DecodedImage, place: tuple[float, float], scale: float) -> Image.Image:
    """Return the square of an image that has ``SQUARE`` pixels a side when it is enlarged.

    Args:
        source: The image.
        place: Column and row of its middle in what ``reduced`` returns.
        scale: Factor of enlargement.
    """
    pixels = source.array()
    height, width = pixels.shape[:2]
    factor = max(1, max(height, width) / SIDE)
    length = min(round(SQUARE / scale), height, width)
    left = round(min(max(0, place[0] * factor - length / 2), width - length))
    top = round(min(max(0, place[1] * factor - length / 2), height - length))
    square = pixels[top : top + length, left : left + length]
    return to_pillow(square, source.icc or source.grey_icc)


def reduced(source: DecodedImage) -> Image.Image:
    """Return an image in 8 bits, reduced if it is large, with the profile that browsers apply."""
    pixels = source.array()
    factor = min(1, SIDE / max(pixels.shape[:2]))
    height, width = (max(1, round(length * factor)) for length in pixels.shape[:2])
    image = to_pillow(pixels, source.icc or source.grey_icc)
    return image.resize((width, height), Image.Resampling.BICUBIC)


def to_pillow(pixels: Pixels, icc: bytes | None) -> Image.Image:
    """Return (H, W) or (H, W, C) as an image of 8 bits, with its colour profile."""
    levels = eight_bits(pixels)
    image = Image.fromarray(levels[..., 0] if levels.shape[2:] == (1,) else levels)
    image.info["icc_profile"] = profile_for_mode(icc, image.mode in ("L", "LA")) if icc else None
    return image


def write_slider(folder: Path, before: Image.Image, after: Image.Image) -> list[str]:
    """Write what a slider compares into two files; return their paths.

    Args:
        folder: For them.
        before: It is resized by bicubic.
        after: The output.
    """
    paths = [str(folder / "before.png"), str(folder / "after.png")]
    before = before.resize(after.size, Image.Resampling.BICUBIC)
    for image, path in zip((before, after), paths, strict=True):
        image.save(path, compress_level=1)  # fast; Pillow writes the profile, too
    return paths
