"""Large pictures in overlapping tiles, blended linearly."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor

from degradations.draws import seed_of
from lightning_modules.noise import Noise

if TYPE_CHECKING:
    from datamodules.base import Batch


def restore_tiled(
    restore: Callable[[Batch, Noise], Tensor], batch: Batch, tile: int, overlap: int
) -> Tensor:
    """Restore a picture tile by tile; memory is bounded by the tile and the output.

    Args:
        restore: A method's ``restore``.
        batch: ``lr`` (B, 3, h, w) in [0, 1], ``size`` (H, W) of the output.
        tile: Side of a tile in LR pixels.
        overlap: LR pixels that neighbouring tiles share, and over which they are blended.

    Returns:
        (B, 3, H, W) float32.
    """
    lr, (height, width) = batch["lr"], batch["size"]
    h, w = lr.shape[-2:]
    total = lr.new_zeros(lr.shape[0], 3, height, width)
    weight = lr.new_zeros(1, 1, height, width)
    for top in _starts(h, tile, overlap):
        for left in _starts(w, tile, overlap):
            rows, columns = slice(top, min(top + tile, h)), slice(left, min(left + tile, w))
            out_rows = slice(round(rows.start * height / h), round(rows.stop * height / h))
            out_columns = slice(round(columns.start * width / w), round(columns.stop * width / w))
            size = (out_rows.stop - out_rows.start, out_columns.stop - out_columns.start)
            part = cast("Batch", {**batch, "lr": lr[..., rows, columns], "size": size})
            seeds = torch.tensor([seed_of(int(s), "tile", top, left) for s in batch["seed"]])
            sr = restore(part, Noise(seeds, lr.device)).float()
            ramp = _ramp(size[0], overlap * height // h, top > 0, rows.stop < h).to(lr)[:, None]
            ramp = ramp * _ramp(size[1], overlap * width // w, left > 0, columns.stop < w).to(lr)
            total[..., out_rows, out_columns] += sr * ramp
            weight[..., out_rows, out_columns] += ramp
    return total / weight


def _starts(side: int, tile: int, overlap: int) -> list[int]:
    if side <= tile:
        return [0]
    return [*range(0, side - tile, tile - overlap), side - tile]


def _ramp(n: int, overlap: int, fade_in: bool, fade_out: bool) -> Tensor:
    ramp = torch.ones(n)
    slope = torch.arange(1, overlap + 1) / (overlap + 1)
    if fade_in:
        ramp[:overlap] = slope
    if fade_out:
        ramp[-overlap:] = torch.minimum(ramp[-overlap:], slope.flip(0))
    return ramp
