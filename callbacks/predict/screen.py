"""Images as the page of ``main.py app`` shows them: reduced to its size, or a square at 100 %."""

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
    """Reduces an output to ``SIDE`` pixels while its rows come; a whole one may exceed the memory.

    A pixel of the result is the mean of a square of pixels.

    Attributes:
        size: (H, W) of the output; (0, 0) before its first rows.
        height: How many rows came.
    """

    def __init__(self) -> None:
        self.size = (0, 0)
        self.height = 0
        self._means: list[Pixels] = []
        self._rest: Pixels | None = None  # rows that are no whole square yet

    def add(self, rows: Pixels, size: Size) -> None:
        """Add the next rows, (rows, W, C), of an output of (H, W)."""
        self.size = size
        self.height += len(rows)
        side = min(math.ceil(max(size) / SIDE), *size)
        for top in range(0, len(rows), BAND):  # copies of all rows would be large
            self._add_band(rows[top : top + BAND], side)

    def _add_band(self, rows: Pixels, side: int) -> None:
        """Append the means of squares of ``side`` pixels, and keep the rows that are left."""
        if self._rest is not None:
            rows = np.concatenate([self._rest, rows])
        height = len(rows) // side
        width = rows.shape[1] // side
        squares = rows[: height * side, : width * side]
        squares = squares.reshape(height, side, width, side, rows.shape[2])
        self._means.append(squares.mean((1, 3)).round().astype(rows.dtype))
        self._rest = rows[height * side :].copy()

    def pixels(self) -> Pixels:
        """Return the reduced output, (h, w, C)."""
        return cast("Pixels", np.concatenate(self._means))


def square_of(source: DecodedImage, place: tuple[float, float], scale: float) -> Image.Image:
    """Return the square of an image that has ``SQUARE`` pixels a side when it is enlarged.

    Args:
        source: The image.
        place: Column and row of its middle, in pixels of what ``reduced`` returns.
        scale: Factor of enlargement.
    """
    pixels = source.array()
    factor = max(1, max(pixels.shape[:2]) / SIDE)
    side = min(round(SQUARE / scale), *pixels.shape[:2])
    rows = _part_around(place[1] * factor, side, pixels.shape[0])
    columns = _part_around(place[0] * factor, side, pixels.shape[1])
    return to_pillow(pixels[rows, columns], source.icc or source.grey_icc)


def _part_around(middle: float, length: int, whole: int) -> slice:
    """Return a part of a line of ``whole`` pixels, moved inside if its middle is near an end."""
    start = round(min(max(0, middle - length / 2), whole - length))
    return slice(start, start + length)


def reduced(source: DecodedImage) -> Image.Image:
    """Return an image in 8 bits, reduced if it is large, with the profile that browsers apply."""
    image = to_pillow(source.array(), source.icc or source.grey_icc)
    factor = min(1, SIDE / max(image.size))
    width, height = (max(1, round(side * factor)) for side in image.size)
    return image.resize((width, height), Image.Resampling.BICUBIC)


def to_pillow(pixels: Pixels, icc: bytes | None) -> Image.Image:
    """Return an image of 8 bits of (H, W) or (H, W, C) levels.

    Args:
        pixels: Levels of 8 or 16 bits.
        icc: Their colour profile, which Pillow writes into a file.
    """
    levels = eight_bits(pixels)
    image = Image.fromarray(levels[..., 0] if levels.shape[2:] == (1,) else levels)
    image.info["icc_profile"] = profile_for_mode(icc, image.mode in ("L", "LA")) if icc else None
    return image


def write_slider(folder: Path, before: Image.Image, after: Image.Image) -> list[str]:
    """Write the two files that a slider of the page compares, and return their paths.

    Args:
        folder: Their folder.
        before: The input, which is enlarged to the size of ``after`` by bicubic.
        after: The output.
    """
    images = {"before.png": before.resize(after.size, Image.Resampling.BICUBIC), "after.png": after}
    paths = []
    for name, image in images.items():
        paths.append(str(folder / name))
        image.save(paths[-1], compress_level=1)  # fast
    return paths
