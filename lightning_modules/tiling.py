"""Large pictures in overlapping tiles, blended linearly."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor

from lightning_modules.noise import Noise, PlacedNoise

if TYPE_CHECKING:
    from datamodules.base import Batch


@dataclass(frozen=True)
class Span:
    """One side of a tile.

    Args:
        lr: Where it lies in the LR picture.
        out: Where it lies in the output.
        window: Weight of each of its output pixels, from 0 to 1.
    """

    lr: slice
    out: slice
    window: Tensor


def restore_tiled(
    restore: Callable[[Batch, Noise], Tensor], batch: Batch, tile: int, overlap: int
) -> Tensor:
    """Restore a picture tile by tile; memory is bounded by the tile and the output.

    The outer quarter of an overlap is thrown away and its middle half is blended, so a method that
    looks at most a quarter of ``overlap`` around each pixel gives the same as on the whole picture.

    Args:
        restore: A method's ``restore``.
        batch: ``lr`` (B, 3, h, w) in [0, 1], ``size`` (H, W) of the output.
        tile: Side of a tile in LR pixels; the last one of a row may be longer by a quarter.
        overlap: LR pixels that neighbouring tiles share at least.

    Returns:
        (B, 3, H, W) float32.

    Raises:
        ValueError: ``overlap`` is not smaller than ``tile``.
    """
    if not 0 <= overlap < tile:
        raise ValueError(f"tiles of {tile} pixels cannot overlap by {overlap}: make it 0 to tile-1")
    lr, (height, width) = batch["lr"], batch["size"]
    h, w = lr.shape[-2:]
    total = lr.new_zeros(lr.shape[0], 3, height, width)
    weight = lr.new_zeros(1, 1, height, width)
    columns = spans(w, width, tile, overlap)
    for row in spans(h, height, tile, overlap):
        for column in columns:
            window = (row.window[:, None] * column.window).to(lr)
            part = {**batch, "lr": lr[..., row.lr, column.lr], "size": tuple(window.shape)}
            # Noise belongs to the place: blending two samples of it would smooth the overlap.
            place = row.lr.start, column.lr.start
            side = row.lr.stop - row.lr.start, column.lr.stop - column.lr.start
            noise = PlacedNoise(batch["seed"], place, side, lr.device)
            sr = restore(cast("Batch", part), noise).float()
            total[..., row.out, column.out] += sr * window
            weight[..., row.out, column.out] += window
    return total.div_(weight)


def spans(side: int, out_side: int, tile: int, overlap: int) -> list[Span]:
    """Cut one side of a picture into tiles.

    Args:
        side: Its length in the LR picture.
        out_side: Its length in the output; the ratio may be any number.
        tile: Length of a tile in LR pixels.
        overlap: LR pixels that neighbours share at least; less than ``tile``.

    Returns:
        The tiles; their windows cover every output pixel.
    """
    # Tiles begin and end where a border of LR pixels meets one of output pixels, or nearly: at a
    # fractional scale their pixels would otherwise lie beside those of the whole picture.
    reach = 1 + min(15, (tile - overlap) // 4)
    cuts = []
    start, stop = 0, _aligned(tile, side, out_side, reach)
    while start + tile < side:
        cuts.append((start, stop))
        start = _aligned(stop - overlap, side, out_side, reach)
        stop = _aligned(start + tile, side, out_side, reach)
    last = _aligned(max(side - tile, 0), side, out_side, reach)  # as long as the others
    cuts.append((last, side))
    fade = overlap * out_side // side
    return [_span(start, stop, side, out_side, fade) for start, stop in cuts]


def _aligned(position: int, side: int, out_side: int, reach: int) -> int:
    """Of the ``reach`` positions up to this one, that which lies nearest to an output border."""

    def miss(candidate: int) -> int:
        rest = candidate * out_side % side
        return min(rest, side - rest)

    return min(range(position, max(position - reach, -1), -1), key=miss)


def _span(start: int, stop: int, side: int, out_side: int, fade: int) -> Span:
    # Rounded half up: Python's round would let the overlap of two tiles be a pixel too small.
    first, end = ((2 * cut * out_side + side) // (2 * side) for cut in (start, stop))
    window = torch.ones(end - first, dtype=torch.float32)
    if fade:
        margin = fade // 4
        steps = torch.arange(end - first, dtype=torch.float32) + 0.5 - margin
        ramp = (steps / (fade - 2 * margin)).clamp(0, 1)
        if start > 0:
            window = torch.minimum(window, ramp)
        if stop < side:
            window = torch.minimum(window, ramp.flip(0))
    return Span(slice(start, stop), slice(first, end), window)
