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
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, cast

import torch
from torch import Tensor
from tqdm import tqdm

from degradations.base import as_floats
from degradations.device import copy_to
from files.batch import Batch, Piece, Span, Tile, length_of
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


class WeightedSpan(NamedTuple):
    """One side of a tile, and how much its output pixels count.

    span: Its place in the image.
    used: The part of the output that it contributes to: where its weights are not 0.
    weights: Weights of that part, up to 1; those of all tiles add up to 1.
    done: End of what no later tile changes: where the used part of the next tile begins.
    """

    span: Span
    used: slice
    weights: Tensor
    done: int

    @property
    def offsets(self) -> slice:
        """The used part, counted from where the tile's own output begins."""
        start = self.span.out.start
        return slice(self.used.start - start, self.used.stop - start)


class WeightedTile(NamedTuple):
    """A tile and how much it counts."""

    rows: WeightedSpan
    columns: WeightedSpan

    @property
    def tile(self) -> Tile:
        """Its place in the image."""
        return Tile(self.rows.span, self.columns.span)


def grid(
    lr_size: Size,
    size: Size,
    tile: Size,
    overlap: int,
    window: Window = "linear",
    multiple: int = 1,
    least: int = 1,
) -> list[list[WeightedTile]]:
    """Cut an image into tiles.

    Args:
        lr_size: (h, w) of the LR image.
        size: (H, W) of the output, at any ratio, which may differ between the sides.
        tile: Largest sides of a tile in LR pixels.
        overlap: Least number of LR pixels that neighbours share.
        window: As in ``Tiling``.
        multiple: Tiles start at multiples of so many LR pixels, so that their latents lie on one
            lattice; ``tile`` and ``overlap`` are rounded up to it.
        least: Smallest side of a tile in LR pixels.

    Returns:
        Rows of the tiles that cover the image.

    Raises:
        ValueError: ``overlap`` is not smaller than ``tile``.
    """
    rows = spans(lr_size[0], size[0], tile[0], overlap, window, multiple, least)
    columns = spans(lr_size[1], size[1], tile[1], overlap, window, multiple, least)
    return [[WeightedTile(row, column) for column in columns] for row in rows]


def restore_tiled(
    restore: Callable[[Batch, Noise], Tensor],
    batch: Batch,
    tiles: Sequence[Sequence[WeightedTile]],
    at_once: int = 1,
) -> Iterator[Piece]:
    """Restore an image tile by tile; memory holds ``at_once`` tiles, and what neighbours share.

    Noise depends on the position in the image, so overlapping tiles draw the same noise.

    Args:
        restore: A method's ``restore``.
        batch: ``lr`` (B, 3, h, w) in [0, 1], or its levels; ``size`` (H, W) of the output.
        tiles: Result of ``grid`` for these sizes.
        at_once: Tiles of a row that are restored as one batch, of ``at_once`` times B.

    Yields:
        What no later tile changes, after each tile.
    """
    width = batch["size"][1]
    images = len(batch["lr"]), 3
    floats: Any = {"dtype": torch.float32, "device": batch["lr"].device}
    # Weighted outputs are summed. Sums that a later tile continues are kept: `above` for this row
    # of tiles, `beside` for the tile on the right, `below` for the next row.
    above = torch.empty((*images, 0, width), **floats)
    for row in tiles:
        rows = row[0].rows
        top = rows.used.start
        below = torch.empty((*images, rows.used.stop - rows.done, width), **floats)
        beside = torch.empty((*images, rows.used.stop - top, 0), **floats)
        for group in _groups(row, at_once):
            outputs = _weighted(restore, batch, group)
            for weighted in group:
                sums = outputs.pop(0)
                left, right = weighted.columns.used.start, weighted.columns.used.stop
                done = weighted.columns.done
                shared = beside.shape[-1]
                sums[..., :shared] += beside  # which already includes its part of `above`
                sums[..., : above.shape[-2], shared:] += above[..., left + shared : right]
                beside = sums[..., done - left :].clone()
                finished = sums[..., : done - left]
                below[..., left:done] = finished[..., rows.done - top :, :]
                finished = finished[..., : rows.done - top, :]
                yield Piece(slice(top, rows.done), slice(left, done), finished)
                del sums, finished  # before the next tile needs memory
        above = below


def with_bar(pieces: Iterable[Piece], size: Size) -> Iterator[Piece]:
    """Yield the pieces of an output (H, W), with a progress bar of its pixels if that takes long.

    A single piece moves no bar.
    """
    options = bar_options() | {"desc": "image", "unit": "pixels", "unit_scale": True}
    options |= {"leave": False, "delay": SHORT}
    total = size[0] * size[1]
    with tqdm(total=total, **options) as progress:
        for piece in pieces:
            pixels = length_of(piece.rows) * length_of(piece.columns)
            yield piece
            del piece  # before the next tile needs memory
            if pixels < total:
                progress.update(pixels)


def _weighted(
    restore: Callable[[Batch, Noise], Tensor], batch: Batch, group: Sequence[WeightedTile]
) -> list[Tensor]:
    """Return the used part of each tile's output, (B, 3, rows, columns) float32, weighted."""
    lr = batch["lr"]
    part: dict[str, Any] = {}
    for name, value in batch.items():
        if name not in ("lr", "size", "hr"):  # of the whole image; set below
            part[name] = _repeated(value, len(group))
    tiles = [weighted.tile for weighted in group]
    part["lr"] = as_floats(torch.cat([lr[..., t.rows.lr, t.columns.lr] for t in tiles]))
    part["size"] = tiles[0].size
    part["tiles"] = [tile for tile in tiles for _ in range(len(lr))]
    noise = PlacedNoise(part["seed"], part["tiles"], lr.device)
    outputs = []
    restored = restore(cast("Batch", part), noise).chunk(len(group))
    for (rows, columns), sr in zip(group, restored, strict=True):
        weights = copy_to(rows.weights[:, None] * columns.weights, lr.device, torch.float32)
        used = sr[..., rows.offsets, columns.offsets].float()
        outputs.append(used.mul_(weights))
    return outputs


def halved_when_full(
    work: Callable[[Size], Iterator[Piece]], tile: Size, least_side: Callable[[], int]
) -> Iterator[Piece]:
    """Work in tiles, or in tiles of half the side when a GPU has no memory for the first one.

    Args:
        work: Yields the output, given the largest sides of tiles in LR pixels.
        tile: First sides to try.
        least_side: Returns the smallest side.

    Raises:
        torch.OutOfMemoryError: If even the smallest tiles do not fit, or a later tile does not.
    """
    while True:
        begun = False
        try:
            for piece in work(tile):
                begun = True
                yield piece
            return
        except torch.OutOfMemoryError:
            least = least_side()
            if begun or max(tile) <= least:  # pieces of larger tiles cannot be taken back
                raise
        # After the handler, within which the error keeps the tensors alive.
        torch.cuda.empty_cache()
        smaller = max(tile[0] // 2, least), max(tile[1] // 2, least)
        log.warning(
            "tiles of %d pixels do not fit into the GPU's memory: trying again with %d",
            max(tile),
            max(smaller),
        )
        tile = smaller


def spans(
    side: int,
    out_side: int,
    tile: int,
    overlap: int,
    window: Window = "linear",
    multiple: int = 1,
    least: int = 1,
) -> list[WeightedSpan]:
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
        ValueError: If ``overlap`` is not below ``tile``.
    """
    tile += -tile % multiple
    overlap += -overlap % multiple
    if not 0 <= overlap < tile:
        raise ValueError(
            f"tiles of {tile} pixels cannot overlap by {overlap}: set tiling.overlap to 0 to "
            f"{tile - multiple}, or a larger tiling.size"
        )
    if window != "released":
        tile = _equal_length(side, tile, overlap, multiple, least)
    # The last tile ends at the border and is as long as the others, so it may overlap by more.
    last = max(side - tile, 0) // multiple * multiple
    cuts = [(start, start + tile) for start in range(0, last, tile - overlap)]
    cuts.append((last, side))
    fade = overlap * out_side // side  # in output pixels
    weighted = []
    total = torch.zeros(out_side, dtype=torch.float64)
    for start, stop in cuts:  # first the windows and their sum
        out = slice(_enlarged(start, side, out_side), _enlarged(stop, side, out_side))
        span = Span(slice(start, stop), out, side, out_side)
        weights = _weights(length_of(out), fade, start > 0, stop < side, window)
        total[out] += weights
        weighted.append((span, weights))
    result: list[WeightedSpan] = []
    done = out_side
    for span, weights in reversed(weighted):  # backwards, as `done` is where the next one begins
        weights = (weights / total[span.out]).float()
        places = weights.nonzero().flatten()
        first, end = int(places[0]), int(places[-1]) + 1
        used = slice(span.out.start + first, span.out.start + end)
        result.insert(0, WeightedSpan(span, used, weights[first:end], done))
        done = used.start
    return result


def _equal_length(side: int, tile: int, overlap: int, multiple: int, least: int) -> int:
    """Return the smallest length that needs no more tiles than ``tile`` does."""
    if side <= tile:
        return tile
    count = math.ceil((side - overlap) / (tile - overlap))
    length = math.ceil((side + (count - 1) * overlap) / count)
    length = max(length, least)
    return min(length + -length % multiple, tile)


def _enlarged(position: int, side: int, out_side: int) -> int:
    """Return the output pixel of a position in LR, rounded half up.

    Python's round, half to even, would let the overlap of two tiles be a pixel too small.
    """
    return (2 * position * out_side + side) // (2 * side)


def _weights(length: int, fade: int, fade_in: bool, fade_out: bool, window: Window) -> Tensor:
    """Return the window of a tile, (length,) float64, not yet divided by the sum over the tiles.

    Args:
        length: Output pixels of the tile.
        fade: Output pixels of the overlap.
        fade_in: Whether there is a tile before this one.
        fade_out: Whether there is one after it.
        window: As in ``Tiling``.
    """
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
    if window == "cut":  # at the middle of the overlap
        ramp = (steps + 0.5 >= fade / 2).double()
    else:  # from 0 to 1 over its middle half
        margin = fade // 4
        ramp = ((steps + 0.5 - margin) / (fade - 2 * margin)).clamp(0, 1)
    fades = torch.ones_like(steps)
    if fade_in:
        fades = torch.minimum(fades, ramp)
    if fade_out:
        fades = torch.minimum(fades, ramp.flip(0))
    return weights * fades


def _groups(row: Sequence[WeightedTile], at_once: int) -> Iterator[Sequence[WeightedTile]]:
    """Yield neighbours in groups of at most ``at_once`` tiles of equal size, to make a batch."""
    for _, neighbours in itertools.groupby(row, lambda one: (one.tile.side, one.tile.size)):
        equal = list(neighbours)
        for start in range(0, len(equal), at_once):
            yield equal[start : start + at_once]


def _repeated(value: Any, times: int) -> Any:
    """Repeat a batch's value, if it has one part for each image."""
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

    def crop_piece(self, piece: Piece, full_size: Size, size: Size) -> Piece:
        """Crop a piece of an output as ``crop`` does the whole.

        Args:
            piece: Of the output for ``lr``.
            full_size: (H', W') of that output.
            size: (H, W) of the result.

        Returns:
            Its place and its part within the result, a view; empty if it lies in the borders.
        """
        top = _enlarged(self.top, self.lr.shape[-2], full_size[0])
        left = _enlarged(self.left, self.lr.shape[-1], full_size[1])
        rows = _cropped(piece.rows, top, size[0])
        columns = _cropped(piece.columns, left, size[1])
        # Where that begins and ends within the piece.
        from_row = rows.start + top - piece.rows.start
        from_column = columns.start + left - piece.columns.start
        to_row = from_row + length_of(rows)
        to_column = from_column + length_of(columns)
        return Piece(rows, columns, piece.sr[..., from_row:to_row, from_column:to_column])


def _cropped(part: slice, before: int, side: int) -> slice:
    """Return a slice of an output in the coordinates of its ``side`` pixels from ``before`` on."""
    start = min(max(part.start - before, 0), side)
    return slice(start, min(max(part.stop - before, start), side))


def joined(pieces: Iterable[Piece], like: Tensor, size: Size) -> Tensor:
    """Return the images (B, 3, H, W) of pieces, or (B, 4, H, W) with alpha.

    Args:
        pieces: All of them; a single one without alpha is not copied.
        like: (B, ...), on the device of the pieces.
        size: (H, W).
    """
    floats: Any = {"dtype": torch.float32, "device": like.device}
    image = torch.empty(0, **floats)
    for piece in pieces:
        if piece.sr.shape[-2:] == size and piece.alpha is None:
            return piece.sr
        if not len(image):  # the first piece shows whether there is alpha
            channels = 3 if piece.alpha is None else 4
            image = torch.empty((len(like), channels, *size), **floats)
        image[:, :3, piece.rows, piece.columns] = piece.sr
        if piece.alpha is not None:
            image[:, 3:, piece.rows, piece.columns] = piece.alpha
    return image


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
            # The image is mirrored up to `middle`, and that side up to `end`.
            positions = mirrored(torch.arange(end), middle) - before
            lr = lr.index_select(dim, copy_to(mirrored(positions, side), lr.device))
    top, left = borders
    return Padded(lr, top, left)


def mirrored(positions: Tensor, side: int) -> Tensor:
    """Fold integers, in any shape, into 0 to ``side`` - 1, as between two mirrors."""
    folded = positions.remainder(max(2 * (side - 1), 1))  # one period: there and back
    return torch.minimum(folded, 2 * (side - 1) - folded)
