"""Large images in overlapping tiles, blended; or only what lies within a method, its latents.

What a tile's outer pixels would be with more of the image around them is not known, so they are
thrown away: a quarter of the overlap, and half of it with the window ``flat``. A method that looks
no further around a pixel gives the same as on the whole image, wherever the tiles lie.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields
from fractions import Fraction
from typing import TYPE_CHECKING, Any, Literal, cast, get_args

import torch
from torch import Tensor
from tqdm import tqdm

from lightning_modules.noise import Noise, PlacedNoise, Size, Span, Tile, length_of

if TYPE_CHECKING:
    from datamodules.base import Batch

Window = Literal["linear", "gaussian", "flat", "released"]
Where = Literal["pixels", "latent"]

log = logging.getLogger(__name__)

FEW = 8  # tiles, of which no bar is shown


@dataclass(frozen=True)
class Tiling:
    """How ``predict`` cuts large images; what is left out is the method's own choice.

    Args:
        size: Side of a tile in LR pixels. ``auto`` is what the method is good at, 512 or an output
            of 1024 for most, halved where a GPU runs out of memory.
        overlap: LR pixels that neighbouring tiles share; 32 for most methods.
        window: How tiles are blended: ``linear``, over the middle half of the overlap; ``gaussian``
            the same, and the middle of a tile has more weight; ``flat``, each pixel is of one tile
            alone. ``linear`` for most methods. ``released``: as InvSR's code, for its published
            numbers: the Gaussian over the whole tile, half a pixel off its centre, and images
            below the size of a tile are mirrored up to it first. For whole factors.
        batch: Tiles that are enlarged at once.
        where: ``pixels``: each tile by itself, from LR to output; ``latent``, for methods that can:
            one latent for the whole image, of which the networks see tiles in each step, so that
            these agree about what they make.

    Raises:
        ValueError: A number is out of range, or a word unknown.
    """

    size: int | Literal["auto"] = "auto"
    overlap: int | None = None
    window: Window | None = None
    batch: int = 1
    where: Where = "pixels"

    def __post_init__(self) -> None:
        least = {"size": 1, "overlap": 0, "batch": 1}
        for key, value in ((key, getattr(self, key)) for key in least):
            if value not in (None, "auto") and value < least[key]:
                raise ValueError(f"tiling.{key} is {value}; it must be at least {least[key]}")
        for key, known in (("window", (None, *get_args(Window))), ("where", get_args(Where))):
            if getattr(self, key) not in known:
                words = ", ".join(word for word in known if word)
                raise ValueError(f"tiling.{key} is {getattr(self, key)!r}; expected {words}")
        if self.window == "released" and self.where == "latent":
            raise ValueError(
                "tiling.window is released, which has tiles of pixels: set tiling.where to pixels, "
                "or another window"
            )

    @property
    def asked(self) -> dict[str, str | int | float]:
        """What is not left to the method and changes images, by its key."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        own = {field.name: field.default for field in fields(self)}
        return {f"tiling.{k}": v for k, v in values.items() if v != own[k] and k != "batch"}


def grid(
    lr_size: Size,
    size: Size,
    tile: int,
    overlap: int,
    window: Window = "linear",
    multiple: int = 1,
) -> list[Tile]:
    """Cut an image into tiles.

    Args:
        lr_size: (h, w) of the LR image.
        size: (H, W) of the output; the ratio may be any number, and differ between the sides.
        tile: Side of a tile in LR pixels.
        overlap: LR pixels that neighbours share at least.
        window: As of ``Tiling``.
        multiple: Tiles begin at multiples of so many LR pixels, so that latents of all of them lie
            on one lattice; ``tile`` and ``overlap`` are rounded up to it.

    Returns:
        The tiles, row after row, which cover the image.

    Raises:
        ValueError: ``overlap`` is not smaller than ``tile``.
    """
    rows, columns = (
        spans(side, out_side, tile, overlap, window, multiple)
        for side, out_side in zip(lr_size, size, strict=True)
    )
    return [Tile(row, column) for row in rows for column in columns]


def whole(lr_size: Size, size: Size) -> Tile:
    """The one tile of an image that is not cut; args as of ``grid``."""
    return grid(lr_size, size, max(lr_size), 0)[0]


def restore_tiled(
    restore: Callable[[Batch, Noise], Tensor],
    batch: Batch,
    tiles: Sequence[Tile],
    at_once: int = 1,
    bar: bool = False,
) -> Tensor:
    """Restore an image tile by tile; memory is bounded by the tiles at once and the output.

    Noise belongs to the place in the image, so two tiles that share a part draw alike there.

    Args:
        restore: A method's ``restore``.
        batch: ``lr`` (B, 3, h, w) in [0, 1], ``size`` (H, W) of the output.
        tiles: Of ``grid``, for these sizes.
        at_once: Tiles that are restored as one batch, of ``at_once`` times B.
        bar: Show how far it is, in a terminal.

    Returns:
        (B, 3, H, W) float32.
    """
    lr = batch["lr"]
    rest = {key: batch[key] for key in batch if key not in ("lr", "size", "hr")}  # type: ignore[literal-required]

    def make(group: Sequence[Tile]) -> Tensor:
        part = {key: _repeated(value, len(group)) for key, value in rest.items()}
        part |= {"lr": _cut(lr, group), "size": group[0].size}
        places = [tile for tile in group for _ in range(len(lr))]
        noise = PlacedNoise(part["seed"], places, lr.device)
        return restore(cast("Batch", part), noise)

    return blend(make, tiles, at_once, bar)


def halved_when_full(work: Callable[[int], Tensor], side: int, least: int) -> Tensor:
    """Work in tiles, and again in tiles of half the side when a GPU runs out of memory.

    Args:
        work: From the side of tiles, in LR pixels.
        side: First side to try.
        least: Smallest side.

    Raises:
        torch.OutOfMemoryError: Even tiles of the smallest side do not fit.
    """
    while True:
        try:
            return work(side)
        except torch.OutOfMemoryError:
            if side <= least:
                raise
        # After the handler, in which the error still holds what was computed.
        torch.cuda.empty_cache()
        smaller = max(side // 2, least)
        log.warning(
            "tiles of %d pixels do not fit into the GPU's memory: trying again with %d",
            *(side, smaller),
        )
        side = smaller


def tiled(
    function: Callable[[Tensor], Tensor],
    x: Tensor,
    tile: int,
    overlap: int,
    window: Window = "linear",
    factor: int | Fraction = 1,
    multiple: int = 1,
    at_once: int = 1,
) -> Tensor:
    """Apply a part of a method to tiles: an encoder, a decoder, or one step of a denoiser.

    Applied to the denoiser's prediction in each step, all tiles share one latent and are brought
    together again and again (MultiDiffusion; Bar-Tal et al., 2023; arXiv 2302.08113, Eq. 5).

    Args:
        function: From (n, C, h, w) to (n, C', factor h, factor w), n being a multiple of B: what
            else it needs of each place, such as a condition, goes in as further channels.
        x: (B, C, h, w).
        tile: Side of a tile in pixels of ``x``.
        overlap: Pixels that neighbours share at least.
        window: As of ``Tiling``.
        factor: By which ``function`` enlarges; for an encoder a fraction, of whose denominator
            the sides of ``x`` are multiples.
        multiple: Tiles begin at multiples of it, and of the fraction's denominator.
        at_once: Tiles to which it is applied as one batch.

    Returns:
        (B, C', factor h, factor w) of the type of ``x``.

    Raises:
        ValueError: ``overlap`` is not smaller than ``tile``, or ``function`` gives another size.
    """
    h, w = x.shape[-2:]
    if max(h, w) <= tile:
        return function(x)
    unit = math.lcm(multiple, Fraction(factor).denominator)
    size = int(h * factor), int(w * factor)
    tiles = grid((h, w), size, tile, overlap, window, unit)
    return blend(lambda group: function(_cut(x, group)), tiles, at_once).to(x.dtype)


def blend(
    make: Callable[[Sequence[Tile]], Tensor],
    tiles: Sequence[Tile],
    at_once: int = 1,
    bar: bool = False,
) -> Tensor:
    """Bring what is made of tiles together; nothing but the result is as large as that.

    Args:
        make: From n tiles of one size to (n B, C, H', W'), the first B of the first tile.
        tiles: Of ``grid``.
        at_once: Largest n.
        bar: Show how far it is, in a terminal.

    Returns:
        (B, C, H, W) float32.

    Raises:
        ValueError: A tile has another size than it should.
    """
    total: Tensor | None = None
    hidden = None if bar and len(tiles) > FEW else True  # None: unless it is no terminal
    with tqdm(total=len(tiles), desc="tiles", unit="tile", leave=False, disable=hidden) as done:
        for group in _groups(tiles, at_once):
            made = make(group)
            parts = made.view(len(group), -1, *made.shape[1:])
            if parts.shape[-2:] != group[0].size:
                raise ValueError(
                    f"a tile became {tuple(parts.shape[-2:])}, expected {group[0].size}: is that "
                    "what the sizes of input and output say?"
                )
            if total is None:
                size = tiles[-1].rows.out.stop, tiles[-1].columns.out.stop
                total = parts.new_zeros((*parts.shape[1:3], *size), dtype=torch.float32)
            for tile, part in zip(group, parts, strict=True):
                window = (tile.rows.window[:, None] * tile.columns.window).to(total)
                total[..., tile.rows.out, tile.columns.out] += part.float() * window
            done.update(len(group))
    return cast(Tensor, total)


def spans(
    side: int,
    out_side: int,
    tile: int,
    overlap: int,
    window: Window = "linear",
    multiple: int = 1,
) -> list[Span]:
    """Cut one side of an image into tiles.

    Args:
        side: Its length in the LR image.
        out_side: Its length in the output; the ratio may be any number.
        tile: Length of a tile in LR pixels; the last one of a side may be longer by a quarter, or
            by less than ``multiple``.
        overlap: LR pixels that neighbours share at least.
        window: As of ``Tiling``.
        multiple: As of ``grid``.

    Returns:
        The tiles; their windows add up to 1 at every output pixel.

    Raises:
        ValueError: ``overlap`` is not smaller than ``tile``, or the window is ``released`` and the
            factor not whole.
    """
    if window == "released" and out_side % side:
        raise ValueError(
            f"tiling.window is released, which is for whole factors, and a side of {side} becomes "
            f"{out_side}: set another window"
        )
    tile, overlap = tile + -tile % multiple, overlap + -overlap % multiple
    if not 0 <= overlap < tile:
        raise ValueError(
            f"tiles of {tile} pixels cannot overlap by {overlap}: make it 0 to {tile - multiple} "
            "(tiling.overlap), or the tiles larger (tiling.size)"
        )
    # Tiles begin and end where a border of LR pixels meets one of output pixels, or nearly: at a
    # fractional scale their pixels would otherwise lie beside those of the whole image.
    reach = 1 + min(15, (tile - overlap) // 4)
    on = (side, out_side, reach, multiple)
    cuts = []
    start, stop = 0, _aligned(tile, *on)
    while start + tile < side:
        cuts.append((start, stop))
        start = _aligned(stop - overlap, *on)
        stop = _aligned(start + tile, *on)
    last = _aligned(max(side - tile, 0), *on)  # as long as the others
    if cuts and cuts[-1][0] == last:
        cuts.pop()
    cuts.append((last, side))
    fade = overlap * out_side // side
    # Rounded half up: Python's round would let the overlap of two tiles be a pixel too small.
    outs = [
        slice(*((2 * cut * out_side + side) // (2 * side) for cut in (start, stop)))
        for start, stop in cuts
    ]
    weights = [
        _weights(length_of(out), fade, start > 0, stop < side, window)
        for (start, stop), out in zip(cuts, outs, strict=True)
    ]
    total = torch.zeros(out_side, dtype=torch.float64)
    for out, weight in zip(outs, weights, strict=True):
        total[out] += weight
    return [
        Span(slice(*cut), out, (weight / total[out]).float())
        for cut, out, weight in zip(cuts, outs, weights, strict=True)
    ]


def _aligned(position: int, side: int, out_side: int, reach: int, multiple: int) -> int:
    """Of the ``reach`` positions up to this one, that which lies nearest to an output border."""

    def miss(candidate: int) -> int:
        rest = candidate * out_side % side
        return min(rest, side - rest)

    position -= position % multiple
    return min(range(position, max(position - reach, -1), -multiple), key=miss)


def _weights(length: int, fade: int, follows: bool, goes_on: bool, window: Window) -> Tensor:
    # (length,) float64, not yet divided by the sum over the tiles.
    steps = torch.arange(length, dtype=torch.float64)
    weights = torch.ones_like(steps)
    if window == "released":
        # OpenCV's kernel; of an even length the one that is a tap longer, without its first tap.
        sigma = 0.3 * ((length - 1) / 2 - 1) + 0.8
        peak = length / 2 - 1 if length % 2 == 0 else (length - 1) / 2
        return torch.exp(-(((steps - peak) / sigma) ** 2) / 2)
    if window == "gaussian":  # as wide as released with InvSR, where it is OpenCV's rule
        sigma = 0.3 * ((length - 1) / 2 - 1) + 0.8
        weights = torch.exp(-(((steps - (length - 1) / 2) / sigma) ** 2) / 2)
    if not fade:
        return weights
    if window == "flat":
        ramp = (steps >= fade // 2).double()
    else:
        margin = fade // 4
        ramp = ((steps + 0.5 - margin) / (fade - 2 * margin)).clamp(0, 1)
    both = torch.ones_like(steps)
    if follows:
        both = torch.minimum(both, ramp)
    if goes_on:
        both = torch.minimum(both, ramp.flip(0))
    return weights * both


def _groups(tiles: Sequence[Tile], at_once: int) -> Iterator[list[Tile]]:
    """The tiles in groups of one size."""
    alike: dict[tuple[Size, Size], list[Tile]] = {}
    for tile in tiles:
        alike.setdefault((tile.side, tile.size), []).append(tile)
    for found in alike.values():
        for start in range(0, len(found), at_once):
            yield found[start : start + at_once]


def _cut(x: Tensor, tiles: Sequence[Tile]) -> Tensor:
    return torch.cat([x[..., tile.rows.lr, tile.columns.lr] for tile in tiles])


def _repeated(value: Any, times: int) -> Any:
    # What a batch says of each image.
    if isinstance(value, Tensor):
        return torch.cat([value] * times)
    return value * times if isinstance(value, list) else value
