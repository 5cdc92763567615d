"""Shrink images, and cut them into squares."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np
from PIL import Image

from datamodules.pack_encode import Pixels

Planes = list[Pixels]  # colours (H, W, 3), and alpha (H, W) if present


class Grid(NamedTuple):
    """A grid of squares.

    Attributes:
        size: Side of a square.
        step: Distance from one square to the next.
        thresh: Pixels that may remain at the end; if more remain, one more square ends there.
    """

    size: int
    step: int
    thresh: float = 0


def bounded(
    size: tuple[int, int], long_side: int | None, short_side: int | None
) -> tuple[int, int]:
    """Return the (W, H) of an image that is shrunk to bounds.

    Args:
        size: (W, H) before.
        long_side: Largest long side, or None.
        short_side: Largest short side, or None.
    """
    ratios = [1.0]
    if long_side is not None:
        ratios.append(long_side / max(size))
    if short_side is not None:
        ratios.append(short_side / min(size))
    width, height = (max(1, round(side * min(ratios))) for side in size)
    return width, height


def resized(pixels: Pixels, size: tuple[int, int]) -> Pixels:
    """Resize pixels by Pillow's Lanczos; alpha is resized separately, without effect on colours.

    Args:
        pixels: (H, W, 3) or (H, W), of 8 or 16 bits.
        size: (W, H) of the result.
    """
    lanczos = Image.Resampling.LANCZOS
    if pixels.dtype == np.uint8:
        return np.asarray(Image.fromarray(pixels).resize(size, lanczos))
    # Pillow has no 16-bit colour, but single float planes.
    planes = np.atleast_3d(pixels).astype(np.float32)
    small = [
        np.asarray(Image.fromarray(np.ascontiguousarray(planes[..., n])).resize(size, lanczos))
        for n in range(planes.shape[2])
    ]
    rounded = np.stack(small, axis=-1).round().clip(0, 65535).astype(np.uint16)
    return rounded if pixels.ndim == 3 else rounded[..., 0]


def places(length: int, grid: Grid) -> list[int]:
    """Return the starts of squares along one side, as in BasicSR's ``extract_subimages``.

    Args:
        length: Length of the side, at least the square's.
        grid: The grid of squares.
    """
    found = list(range(0, length - grid.size + 1, grid.step))
    if length - (found[-1] + grid.size) > grid.thresh:
        found.append(length - grid.size)
    return found


def squares(
    whole: Mapping[str, Planes], factors: Mapping[str, int], grid: Grid
) -> Iterator[dict[str, Planes]]:
    """Cut the images of one sample alike, row by row.

    Args:
        whole: The images by their role.
        factors: Size of each image relative to the smallest.
        grid: The grid on the smallest image.
    """
    smallest = min(whole, key=lambda role: factors[role])
    height, width = whole[smallest][0].shape[:2]
    for top in places(height, grid):
        for left in places(width, grid):
            yield {
                role: [_cut(plane, top, left, grid.size, factors[role]) for plane in planes]
                for role, planes in whole.items()
            }


def _cut(plane: Pixels, top: int, left: int, size: int, factor: int) -> Pixels:
    rows = slice(top * factor, (top + size) * factor)
    return plane[rows, left * factor : (left + size) * factor]
