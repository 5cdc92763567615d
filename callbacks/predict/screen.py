"""What a page shows of an image: its whole, reduced, or a square of it."""

from __future__ import annotations

import math
from pathlib import Path
from typing import cast

import numpy as np
from PIL import Image

from files.images.colours import fitted
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


def square_of(source: DecodedImage, place: tuple[float, float], scale: float) -> Pixels:
    """Return the square of an image that has ``SQUARE`` pixels a side when it is enlarged.

    Args:
        source: The image.
        place: Column and row of its middle in what ``write_whole`` shows.
        scale: Factor of enlargement.
    """
    pixels = source.array()
    height, width = pixels.shape[:2]
    factor = max(1, max(height, width) / SIDE)
    length = min(round(SQUARE / scale), height, width)
    left = round(min(max(0, place[0] * factor - length / 2), width - length))
    top = round(min(max(0, place[1] * factor - length / 2), height - length))
    return pixels[top : top + length, left : left + length]


def write_whole(path: Path, source: DecodedImage) -> str:
    """Write a whole image, reduced if it is large; otherwise as ``write_shown``."""
    pixels = source.array()
    factor = min(1, SIDE / max(pixels.shape[:2]))
    height, width = (max(1, round(length * factor)) for length in pixels.shape[:2])
    return write_shown(path, pixels, (height, width), source)


def write_shown(path: Path, pixels: Pixels, size: Size, source: DecodedImage) -> str:
    """Write a PNG of 8 bits, with the profile by which browsers show it; return its path.

    Args:
        path: The file.
        pixels: (H, W) or (H, W, C).
        size: (H, W) of the PNG; pixels of another size are resized by bicubic.
        source: The file of which the pixels are.
    """
    levels = eight_bits(pixels)
    image = Image.fromarray(levels[..., 0] if levels.shape[2:] == (1,) else levels)
    icc = source.icc or source.grey_icc
    profile = fitted(icc, image.mode in ("L", "LA")) if icc else None
    image = image.resize(size[::-1], Image.Resampling.BICUBIC)
    image.save(path, icc_profile=profile, compress_level=1)  # fast
    return str(path)


def write_slider(folder: Path, before: Pixels, after: Pixels, source: DecodedImage) -> list[str]:
    """Write what a slider compares; return the paths.

    Args:
        folder: For two files.
        before: (h, w) or (h, w, C); it is enlarged by bicubic.
        after: (H, W) or (H, W, C).
        source: The file of which they are.
    """
    height, width = after.shape[:2]
    return [
        write_shown(folder / "before.png", before, (height, width), source),
        write_shown(folder / "after.png", after, (height, width), source),
    ]
