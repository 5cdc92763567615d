"""Tiles: their grid, blending, padding and side.

The outer pixels of a tile lack their surroundings, so they are discarded: a quarter of the overlap,
or with the window ``cut`` half of it. A method with a smaller receptive field gives the same output
as on the whole image, wherever the tiles lie, if it enlarges by the pixel grid of the whole image:
by ``tiles`` of the batch.
"""

from __future__ import annotations

import itertools
import logging
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, cast

import torch
from torch import Tensor
from tqdm import tqdm

from degradations.device import copy_to
from files.batch import Batch, Span, Tile, length_of
from files.method import Option, changed
from files.numbers import NonNegativeInt, PositiveInt
from files.progress import bar_options
from lightning_modules.noise import Noise, PlacedNoise, Size

log = logging.getLogger(__name__)

Window = Literal["cut", "linear", "gaussian", "released"]
SHORT = 2  # seconds; images that take less need no bar


@dataclass(frozen=True)
class Tiling:
    """How ``predict`` cuts large images; by default each method chooses.

    Args:
        size: Largest side of a tile in LR pixels; all tiles of an image are equal, and as small as
            their number allows. ``auto``: for a network of one pass 1.5 million pixels, or what
            memory allows; else, or if it sees too far, the method's own size, 640 or an output of
            1280 for most. Halved if a GPU runs out of memory.
        overlap: LR pixels that neighbouring tiles share. By default as many as a network of one
            pass sees, so that tiles change nothing; 32 for most other methods.
        window: How tiles are blended. ``cut``: not at all; the default of networks of one pass.
            ``linear``, the default of most other methods: over the middle half of the overlap;
            ``gaussian``: the same, with more weight in the middle of a tile;
            ``released``: as InvSR's code, for its published
            numbers: the Gaussian over the whole tile, half a pixel off its centre, and images
            below the size of a tile are mirrored up to it first. Only for whole factors.
        batch: Tiles that are enlarged at once.
    """

    size: PositiveInt | Literal["auto"] = "auto"
    overlap: NonNegativeInt | None = None
    window: Window | None = None
    batch: PositiveInt = 1

    @property
    def options(self) -> dict[str, Option]:
        """Settings that differ from the defaults and change outputs, by key."""
        options = changed(self)
        options.pop("batch", None)
        return {f"tiling.{name}": value for name, value in options.items()}


class WeightedTile(NamedTuple):
    """A tile and how much it counts.

    tile: Its place in the image.
    rows: Weights of its rows of output pixels, from 0 to 1; those of all tiles add up to 1.
    columns: Those of its columns.
    """

    tile: Tile
    rows: Tensor
    columns: Tensor


def grid(
    lr_size: Size,
    size: Size,
    tile: int,
    overlap: int,
    window: Window = "linear",
    multiple: int = 1,
    least: int = 1,
) -> list[WeightedTile]:
    """Cut an image into tiles.

    Args:
        lr_size: (h, w) of the LR image.
        size: (H, W) of the output, at any ratio, which may differ between the sides.
        tile: Largest side of a tile in LR pixels.
        overlap: Least number of LR pixels that neighbours share.
        window: As in ``Tiling``.
        multiple: Tiles start at multiples of so many LR pixels, so that their latents lie on one
            lattice; ``tile`` and ``overlap`` are rounded up to it.
        least: Smallest side of a tile in LR pixels.

    Returns:
        The tiles that cover the image, row by row.

    Raises:
        ValueError: ``overlap`` is not smaller than ``tile``.
    """
    rows = spans(lr_size[0], size[0], tile, overlap, window, multiple, least)
    columns = spans(lr_size[1], size[1], tile, overlap, window, multiple, least)
    tiles = []
    for (row, row_weights), (column, column_weights) in itertools.product(rows, columns):
        tiles.append(WeightedTile(Tile(row, column), row_weights, column_weights))
    return tiles


def restore_tiled(
    restore: Callable[[Batch, Noise], Tensor],
    batch: Batch,
    tiles: Sequence[WeightedTile],
    at_once: int = 1,
    bar: bool = False,
) -> Tensor:
    """Restore an image tile by tile; memory holds ``at_once`` tiles and the output.

    Noise depends on the position in the image, so overlapping tiles draw the same noise.

    Args:
        restore: A method's ``restore``.
        batch: ``lr`` (B, 3, h, w) in [0, 1], ``size`` (H, W) of the output.
        tiles: Result of ``grid`` for these sizes.
        at_once: Tiles that are restored as one batch, of ``at_once`` times B.
        bar: Show the pixels that are done, in a terminal or in the log.

    Returns:
        (B, 3, H, W) float32.
    """
    lr = batch["lr"]
    height, width = batch["size"]
    pixels = height * width
    rest: dict[str, Any] = {**batch}
    for name in ("lr", "size", "hr"):
        rest.pop(name, None)
    total = lr.new_zeros((len(lr), 3, height, width), dtype=torch.float32)
    options = bar_options()
    options |= {"desc": "image", "unit": "pixels", "unit_scale": True, "leave": False}
    hidden = not bar or len(tiles) == 1
    with tqdm(total=pixels, delay=SHORT, disable=hidden, **options) as progress:
        for group in _groups(tiles, at_once):
            part = {name: _repeated(value, len(group)) for name, value in rest.items()}
            part["lr"] = torch.cat([lr[..., t.tile.rows.lr, t.tile.columns.lr] for t in group])
            part["size"] = group[0].tile.size
            part["tiles"] = []
            for weighted in group:
                part["tiles"] += [weighted.tile] * len(lr)
            noise = PlacedNoise(part["seed"], part["tiles"], lr.device)
            outputs = restore(cast("Batch", part), noise).chunk(len(group))
            for (tile, rows, columns), sr in zip(group, outputs, strict=True):
                weights = copy_to(rows[:, None] * columns, total.device, total.dtype)
                total[..., tile.rows.out, tile.columns.out] += sr.float() * weights
                share = float(rows.sum() * columns.sum())
                progress.update(min(share, pixels - progress.n))  # rounded, it may be too much
            del outputs, sr  # before the next tile needs memory
    return total


def halved_when_full(
    work: Callable[[int], Tensor], side: int, least_side: Callable[[], int]
) -> Tensor:
    """Work in tiles, and again in tiles of half the side when a GPU runs out of memory.

    Args:
        work: Makes the output (B, 3, H, W), given the side of tiles in LR pixels.
        side: First side to try.
        least_side: Returns the smallest side.

    Raises:
        torch.OutOfMemoryError: If even the smallest tiles do not fit.
    """
    while True:
        try:
            return work(side)
        except torch.OutOfMemoryError:
            least = least_side()
            if side <= least:
                raise
        # After the handler, within which the error keeps the tensors alive.
        torch.cuda.empty_cache()
        smaller = max(side // 2, least)
        log.warning(
            "tiles of %d pixels do not fit into the GPU's memory: trying again with %d",
            side,
            smaller,
        )
        side = smaller


def spans(
    side: int,
    out_side: int,
    tile: int,
    overlap: int,
    window: Window = "linear",
    multiple: int = 1,
    least: int = 1,
) -> list[tuple[Span, Tensor]]:
    """Cut one side of an image into the fewest tiles, and these as small as they can be.

    Args:
        side: Length in the LR image.
        out_side: Length in the output, at any ratio.
        tile: Largest length of a tile in LR pixels, and with the window ``released`` the length of
            all; the last one of a side may be longer by less than ``multiple``.
        overlap: Least number of LR pixels that neighbours share.
        window: As in ``Tiling``.
        multiple: As in ``grid``.
        least: As in ``grid``.

    Returns:
        The tiles; their windows add up to 1 at every output pixel.

    Raises:
        ValueError: If ``overlap`` is not below ``tile``, or the window is ``released`` and the
            factor is not whole.
    """
    if window == "released" and out_side % side:
        raise ValueError(
            f"tiling.window is released, which needs whole factors, and a side of {side} becomes "
            f"{out_side}: set another window"
        )
    tile += -tile % multiple
    overlap += -overlap % multiple
    if not 0 <= overlap < tile:
        raise ValueError(
            f"tiles of {tile} pixels cannot overlap by {overlap}: set tiling.overlap to 0 to "
            f"{tile - multiple}, or a larger tiling.size"
        )
    if window != "released":
        tile = _equal_length(side, tile, overlap, multiple, least)
    last = max(side - tile, 0) // multiple * multiple  # as long as the others
    cuts = [(start, start + tile) for start in range(0, last, tile - overlap)]
    cuts.append((last, side))
    fade = overlap * out_side // side
    weighted = []
    total = torch.zeros(out_side, dtype=torch.float64)
    for start, stop in cuts:
        out = slice(_enlarged(start, side, out_side), _enlarged(stop, side, out_side))
        span = Span(slice(start, stop), out, side, out_side)
        weights = _weights(length_of(out), fade, start > 0, stop < side, window)
        total[out] += weights
        weighted.append((span, weights))
    return [(span, (weights / total[span.out]).float()) for span, weights in weighted]


def _equal_length(side: int, tile: int, overlap: int, multiple: int, least: int) -> int:
    """Return the smallest length that needs no more tiles than ``tile`` does."""
    if side <= tile:
        return tile
    count = math.ceil((side - overlap) / (tile - overlap))
    length = math.ceil((side + (count - 1) * overlap) / count)
    length = max(length, least)
    return min(length + -length % multiple, tile)


def _enlarged(position: int, side: int, out_side: int) -> int:
    # Rounded half up: Python's round would let the overlap of two tiles be a pixel too small.
    return (2 * position * out_side + side) // (2 * side)


def _weights(length: int, fade: int, fade_in: bool, fade_out: bool, window: Window) -> Tensor:
    # (length,) float64, not yet divided by the sum over the tiles.
    steps = torch.arange(length, dtype=torch.float64)
    weights = torch.ones_like(steps)
    if window in ("gaussian", "released"):  # width as released with InvSR: OpenCV's rule
        sigma = 0.3 * ((length - 1) / 2 - 1) + 0.8
        peak = (length - 1) / 2
        if window == "released" and length % 2 == 0:
            peak -= 0.5  # OpenCV's kernel with one more tap, without the first
        weights = torch.exp(-(((steps - peak) / sigma) ** 2) / 2)
    if window == "released" or not fade:
        return weights
    if window == "cut":
        ramp = (steps + 0.5 >= fade / 2).double()
    else:
        margin = fade // 4
        ramp = ((steps + 0.5 - margin) / (fade - 2 * margin)).clamp(0, 1)
    fades = torch.ones_like(steps)
    if fade_in:
        fades = torch.minimum(fades, ramp)
    if fade_out:
        fades = torch.minimum(fades, ramp.flip(0))
    return weights * fades


def _groups(tiles: Sequence[WeightedTile], at_once: int) -> Iterator[list[WeightedTile]]:
    """Yield the tiles in groups of one size."""
    by_size: dict[tuple[Size, Size], list[WeightedTile]] = {}
    for weighted in tiles:
        by_size.setdefault((weighted.tile.side, weighted.tile.size), []).append(weighted)
    for group in by_size.values():
        for start in range(0, len(group), at_once):
            yield group[start : start + at_once]


def _repeated(value: Any, times: int) -> Any:
    # Repeat a batch's value for each image.
    if isinstance(value, Tensor):
        return torch.cat([value] * times)
    return value * times if isinstance(value, list) else value


@dataclass(frozen=True)
class Padded:
    """An image with mirrored borders.

    Args:
        lr: (B, C, h', w').
        top: Rows that were added above.
        left: Columns that were added on the left.
    """

    lr: Tensor
    top: int
    left: int

    def crop(self, image: Tensor, size: tuple[int, int]) -> Tensor:
        """Crop an output to the image without its borders.

        Exact if what was added above and on the left are whole numbers of output pixels, as at any
        whole factor, and if nothing was.

        Args:
            image: (B, C, H', W'), the output for ``lr``, at any factor.
            size: (H, W) of the result.

        Returns:
            (B, C, H, W), a view.
        """
        top = _enlarged(self.top, self.lr.shape[-2], image.shape[-2])
        left = _enlarged(self.left, self.lr.shape[-1], image.shape[-1])
        return image[..., top : top + size[0], left : left + size[1]]


def padded(lr: Tensor, multiple: int = 1, minimum: int = 1, unit: int = 1) -> Padded:
    """Mirror an image at its borders, repeatedly if necessary.

    The border row itself is not repeated, unless it is the only one.

    Args:
        lr: (B, C, h, w) of any type; sides of 1 or more.
        multiple: Pad both sides to multiples of this, below and on the right.
        minimum: Before that, pad both sides to this: half before and half after, the odd one after.
        unit: What is added before is a multiple of this: at a fractional scale its denominator, so
            that ``crop`` is exact.

    Returns:
        The padded image; ``lr`` itself if nothing was added.
    """
    borders: list[int] = []
    for dim in (-2, -1):
        side = lr.shape[dim]
        middle = max(side, minimum)
        before = (middle - side) // (2 * unit) * unit
        end = middle + -middle % multiple
        borders.append(before)
        if end > side:
            positions = mirrored(torch.arange(end), middle) - before
            lr = lr.index_select(dim, copy_to(mirrored(positions, side), lr.device))
    top, left = borders
    return Padded(lr, top, left)


def mirrored(positions: Tensor, side: int) -> Tensor:
    """Fold integers, in any shape, into 0 to ``side`` - 1, as between two mirrors."""
    folded = positions.remainder(max(2 * (side - 1), 1))
    return torch.minimum(folded, 2 * (side - 1) - folded)
