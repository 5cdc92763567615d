"""How an image is enlarged: whole or in tiles, checked, clamped, and with corrected colours."""

from __future__ import annotations

import logging
from abc import abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from fractions import Fraction
from functools import partial
from typing import Any, cast, final

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.plugins import Precision
from torch import Tensor
from torch.nn import functional

from degradations.base import as_floats
from degradations.bicubic import resize, source_of
from files.batch import Batch, Piece, length_of, tiles_of
from files.memory import refuse_whole
from files.method import Method
from files.weights import shape_text
from lightning_modules.noise import Noise, PlacedNoise, Size, with_noise_seeds
from lightning_modules.sampling.color import ColorFix, fix_colors
from lightning_modules.sampling.tiling import (
    Tiling,
    Window,
    grid,
    halved_when_full,
    joined,
    padded,
    restore_tiled,
    with_bar,
)
from lightning_modules.trainer import trainer_of

log = logging.getLogger(__name__)
CONSTANT = 5  # side of the square, in LR pixels, in which alpha must be constant to be copied
CANVAS = 32  # bytes of memory for each pixel of an output that is corrected as a whole
WAITING_COLOURS = 12  # bytes for each pixel of the colours that wait while alpha is enlarged
RESIZE_REACH = 3  # LR pixels on each side; what bicubic sees when it reduces, and its rounding
BAND = 1 << 24  # pixels that are resized at a time


class WrongScaleError(ValueError):
    """A method enlarged an image by another factor than asked for."""


class InTiles(Method, LightningModule):
    """A method whose ``enlarge`` cuts large images into tiles, if it is asked to.

    Args:
        color_fix: How outputs get the colours of LR; see ``lightning_modules.sampling.color``.
    """

    scale: float

    # Sides of the LR and of the output in pixels. In prediction, larger images go through
    # overlapping tiles.
    tile, tile_output = 640, 1280
    tile_least = 1  # LR pixels; `restore` pads smaller tiles to this
    tile_overlap = 32  # LR pixels
    tile_window: Window = "linear"
    # LR pixels; `restore` pads to multiples of this. Tiles of at least four times this start at
    # multiples and have such sides; otherwise latents of two tiles would not share one lattice.
    tile_multiple = 1
    # Whether an output pixel is 1 / scale of an LR pixel, as in latents, although the output's side
    # is rounded. Outputs of other methods cover LR from border to border.
    exact_scale = False
    tile_always = False  # whether validation and test go through tiles too
    # Whether prediction may choose bfloat16 on a CPU; set if the user sets no precision.
    may_use_bf16 = False

    def __init__(self, *args: Any, color_fix: ColorFix = "none", **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.color_fix: ColorFix = color_fix
        self._tiling = Tiling()
        self._tile_count = 1
        self._tile_size: Size | None = None
        self.has_one_scale = False  # until another one fails: see `pieces`

    @abstractmethod
    def restore(self, batch: Batch, noise: Noise) -> Tensor:
        """Return the output (B, 3, H, W) of LR; see ``lightning_modules.SuperResolver.restore``."""

    @property
    @final
    def tiling(self) -> Tiling:
        """How large images are cut into tiles: the command line's group ``tiling``."""
        return self._tiling

    @final
    def set_tiling(self, tiling: Tiling) -> None:
        """Set how large images are cut into tiles."""
        self._tiling = tiling

    @property
    def output_settings(self) -> dict[str, str | int | float]:
        """Settings that change outputs of the same weights; they label results.

        Subclasses add their own.
        """
        settings = super().output_settings
        if self.color_fix != "none":
            settings["color_fix"] = self.color_fix
        if self.tile_always:  # tiles only in prediction change no metric
            settings |= self.tiling.options
        return settings

    def color_reference(self, batch: Batch) -> Tensor:
        """The LR image whose colours ``color_fix`` takes, (B, 3, h, w) in [0, 1]."""
        return batch["lr"]

    @torch.no_grad()
    def enlarge(self, batch: Batch, tiled: bool = False) -> dict[str, Tensor]:
        """Restore, check, clamp and correct colours.

        Noise depends on the position in the image, whether it is enlarged whole or in tiles. So
        tiles change an output only as far as a method looks beyond the border of a tile.

        Args:
            batch: Batch as for ``restore``.
            tiled: Whether large images go through tiles, which are halved if a GPU runs out of
                memory. Tiles in evaluation (``tile_always``) are never halved.

        Returns:
            ``{"sr": (B, 3, H, W) float32 in [0, 1]}``.

        Raises:
            WrongScaleError: If ``restore`` returns another size.
            ValueError: If the tiles are too small for the method.
        """
        sr = joined(self._enlarged(batch, batch["size"], tiled), batch["lr"], batch["size"])
        return {"sr": fix_colors(sr, self.color_reference(batch), self.color_fix)}

    def enlarge_to_size(self, batch: Batch) -> dict[str, Tensor]:
        """Enlarge to any size, in tiles; a method with one scale is followed by bicubic resizing.

        Args:
            batch: As for ``pieces``.

        Returns:
            ``sr`` and, of a batch with varying ``alpha``, its ``alpha`` (B, 1, H, W); float32 in
            [0, 1].
        """
        image = joined(self.pieces(batch), batch["lr"], batch["size"])
        output = {"sr": image[:, :3]}
        if image.shape[1] == 4:
            output["alpha"] = image[:, 3:]
        return output

    @torch.no_grad()
    def pieces(self, batch: Batch) -> Iterator[Piece]:
        """Enlarge as ``enlarge_to_size``, but yield each tile's part instead of the whole output.

        The correction of colours, and the resizing of blended tiles, need the whole output of the
        method.

        Args:
            batch: As for ``enlarge``; ``lr`` may be levels in uint8. Its ``alpha``, if there is
                one, is enlarged as a grey image unless it is constant.

        Raises:
            MemoryError: If the whole output is needed, and larger than what is free.
        """
        size = batch["size"]
        if not self.has_one_scale:
            try:
                yield from self._pieces(batch, size)
                return
            except WrongScaleError:  # of the first tile, before any piece was yielded
                self.has_one_scale = True
                log.info("enlarged by %g, and then resized by bicubic", self.scale)
        own_size = self.own_size(batch["lr"])
        yield from self._pieces(cast("Batch", {**batch, "size": own_size}), size)

    def _pieces(self, batch: Batch, size: Size) -> Iterator[Piece]:
        """Yield the output of ``batch["size"]``, resized to ``size`` if that is another one."""
        # Tiles can be resized one by one only if they are not blended and start at whole pixels.
        by_tiles = batch["size"] == size or (self._window == "cut" and self.scale.is_integer())
        if self.color_fix == "none" and by_tiles:  # `_enlarged` adds alpha itself
            yield from self._enlarged(batch, size, tiled=True)
            return
        bytes_per_pixel = CANVAS + WAITING_COLOURS if "alpha" in batch else CANVAS
        refuse_whole(batch["size"], bytes_per_pixel, self.device)
        yield from _with_alpha(self._whole, batch, size)

    def _whole(self, batch: Batch, size: Size) -> Iterator[Piece]:
        """Enlarge with the whole output in memory, then resize it to ``size``."""
        floats = cast("Batch", {**batch, "lr": as_floats(batch["lr"])})
        yield from _resized(self.enlarge(floats, tiled=True)["sr"], size)

    def _enlarged(self, batch: Batch, size: Size, tiled: bool) -> Iterator[Piece]:
        """Restore an image, whole or in tiles, which are resized if ``size`` is another one."""
        batch = with_noise_seeds(batch, self.noise_seed)
        tile = self._tile(batch, size) if tiled or self.tile_always else None
        trainer = trainer_of(self)
        has_bar = False
        if trainer is not None and trainer.is_global_zero:
            has_bar = trainer.progress_bar_callback is not None

        def in_tiles(tile: Size | None) -> Iterator[Piece]:
            pieces = _with_alpha(partial(self._in_tiles_of, tile=tile), batch, size)
            return with_bar(pieces, size) if has_bar else pieces

        # A size that the user set, and tiles in evaluation, are part of the result: never halved.
        if tile is None or not tiled or self.tiling.size != "auto":
            yield from in_tiles(tile)
        else:
            yield from halved_when_full(in_tiles, tile, self._least_side)

    def _least_side(self) -> int:
        """Return the side in LR pixels below which tiles are not halved."""
        return max(2 * self._overlap, self.tile_least)

    def _in_tiles_of(self, batch: Batch, size: Size, tile: Size | None) -> Iterator[Piece]:
        """Restore an image whole if it is no larger than ``tile``, else in such tiles."""
        self._tile_count = 1
        self._tile_size = None
        h, w = batch["lr"].shape[-2:]
        if tile is not None and (h > tile[0] or w > tile[1]):
            yield from self._in_tiles(batch, size, tile)
            return
        tiles = tiles_of(batch)
        noise = PlacedNoise(batch["seed"], tiles, batch["lr"].device)
        lr = as_floats(batch["lr"]).contiguous()
        sr = self._restored(cast("Batch", {**batch, "lr": lr, "tiles": tiles}), noise)
        yield from _resized(sr, size)

    def _in_tiles(self, batch: Batch, size: Size, tile: Size) -> Iterator[Piece]:
        """Restore an image in tiles, and resize each tile if ``size`` is not the batch's."""
        lr = batch["lr"]
        h, w = lr.shape[-2:]
        H, W = batch["size"]
        alignment = self._tile_alignment(max(tile))
        # Sides are mirrored up to a multiple of the alignment, so that the last tiles are as large
        # as the others. As released with InvSR, a side below the tile's is first mirrored up to it.
        least = max(tile) if self._window == "released" else 1
        restore, overlap = self._restored, self._overlap
        if size != (H, W):  # each tile is resized
            mirrored, full_size = padded(lr), size  # nothing is mirrored
            restore = self._then_resized
            overlap += 2 * RESIZE_REACH
        elif H % h == 0 and W % w == 0:  # a whole factor
            mirrored = padded(lr, alignment, least)
            full_size = mirrored.lr.shape[-2] * (H // h), mirrored.lr.shape[-1] * (W // w)
        elif self.exact_scale and self.own_size(lr) == (H, W):
            mirrored = padded(lr, alignment, least)
            full_size = self.own_size(mirrored.lr)
        else:  # mirrored rows would not be whole rows of the output
            mirrored, full_size = padded(lr), (H, W)
        lr_size = (mirrored.lr.shape[-2], mirrored.lr.shape[-1])
        tiles = grid(lr_size, full_size, tile, overlap, self._window, alignment, self.tile_least)
        self._tile_count = len(tiles) * len(tiles[0])
        self._tile_size = tiles[0][0].tile.side
        full = cast("Batch", {**batch, "lr": mirrored.lr, "size": full_size})
        for piece in restore_tiled(restore, full, tiles, self.tiling.batch):
            part = mirrored.crop_piece(piece, full_size, size)
            if part.sr.numel():
                part.sr.clamp_(0, 1)  # weights add up to 1 except for rounding
                yield part

    def _then_resized(self, batch: Batch, noise: Noise) -> Tensor:
        """Restore tiles by the method's own scale, a whole number, and resize them."""
        own = self.own_size(batch["lr"])
        sr = self._restored(cast("Batch", {**batch, "size": own}), noise)
        boxes = []  # parts of `sr` that the resized tiles cover; they may lie between its pixels
        for tile in batch["tiles"]:
            (top, bottom), (left, right) = tile.box
            rows = top * self.scale, bottom * self.scale
            boxes.append((rows, (left * self.scale, right * self.scale)))
        return resize(sr, batch["size"], boxes=boxes)

    def own_size(self, lr: Tensor) -> Size:
        """Return (H, W) of LR (B, 3, h, w) enlarged by ``scale``, whatever a batch asks for."""
        return round(lr.shape[-2] * self.scale), round(lr.shape[-1] * self.scale)

    def _tile_alignment(self, side: int) -> int:
        """Return the number of LR pixels at whose multiples tiles of this side start.

        It is ``tile_multiple``, so that the latents of all tiles lie on one lattice. Where tiles
        are too small for that, it is the scale's denominator (2 for 1.5), so that they start at
        whole pixels of the output.
        """
        if 4 * self.tile_multiple <= side:
            return self.tile_multiple
        if self.exact_scale:
            return Fraction(self.scale).limit_denominator(100).denominator
        return 1

    @property
    def _blended_overlap(self) -> int:
        """LR pixels that tiles share: those set by the user, or the method's."""
        return self.tile_overlap if self.tiling.overlap is None else self.tiling.overlap

    @property
    def _overlap(self) -> int:
        """LR pixels that tiles share; methods that know how far they see have their own."""
        return self._blended_overlap

    @property
    def _window(self) -> Window:
        """How tiles are blended: as the user or the method sets it."""
        return self.tiling.window or self.tile_window

    def _tile(self, batch: Batch, resized: Size) -> Size:
        """Return the largest sides of a tile in LR pixels, for an output that may be resized."""
        size = self.tiling.size
        if size != "auto":
            if size < self.tile_least:
                raise ValueError(
                    f"tiling.size is {size}, and {type(self).__name__} pads smaller tiles to "
                    f"{self.tile_least} pixels: set it to {self.tile_least} or more, or to auto"
                )
            return size, size
        H, W = batch["size"]
        largest = max(H, resized[0]), max(W, resized[1])  # of the method's output and the resized
        return self.default_tile(cast("Batch", {**batch, "size": largest}))

    def default_tile(self, batch: Batch) -> Size:
        """Return the largest sides of a tile in LR pixels, where the user sets none."""
        sides = batch["lr"].shape[-2:]
        factor = max(out_side / side for out_side, side in zip(batch["size"], sides, strict=True))
        # With tiles below four overlaps, nearly half of the computation would be discarded.
        least = max(4 * self._blended_overlap, self.tile_least)
        side = min(self.tile, max(int(self.tile_output / factor), least))
        return side, side

    @contextmanager
    def _precision(self) -> Iterator[Precision]:
        """Compute in the trainer's precision, which Lightning sets only around a step.

        Pieces are made after it.
        """
        trainer = trainer_of(self)
        precision = Precision() if trainer is None else trainer.precision_plugin
        with precision.forward_context():
            yield precision

    def _restored(self, batch: Batch, noise: Noise) -> Tensor:
        """Call ``restore`` in the trainer's precision, check the size, and clamp to [0, 1]."""
        with self._precision() as precision:
            lr = precision.convert_input(batch["lr"])
            sr = self.restore(cast("Batch", {**batch, "lr": lr}), noise)
        self._drew_noise |= noise.drew
        expected = (len(batch["lr"]), 3, *batch["size"])
        if sr.shape != expected:
            raise WrongScaleError(
                f"{type(self).__name__} made {shape_text(sr.shape)} of {batch['key'][0]}, expected "
                f"{shape_text(expected)}: its scale is {self.scale:g}; set data.init_args.scale to "
                "that of its outputs, or correct their size"
            )
        return in_range(sr)


def _with_alpha(
    enlarge: Callable[[Batch, Size], Iterator[Piece]], batch: Batch, size: Size
) -> Iterator[Piece]:
    """Enlarge images and, piece by piece along with them, their transparency as grey images.

    Args:
        enlarge: Yields the pieces of the images of ``lr``.
        batch: With or without ``alpha``.
        size: (H, W) of the output.
    """
    colours = batch.copy()
    alpha = colours.pop("alpha", None)
    if alpha is not None and alpha.dtype != torch.uint8:  # other levels have no minimum in torch
        alpha = as_floats(alpha)
    if alpha is None or alpha.min() == alpha.max():
        yield from enlarge(colours, size)
        return
    alpha = alpha.to(batch["lr"].device)
    grey = cast("Batch", {**colours, "lr": alpha.expand(-1, 3, -1, -1)})
    for piece, grey_piece in zip(enlarge(colours, size), enlarge(grey, size), strict=True):
        yield piece._replace(alpha=_copied_where_constant(grey_piece, alpha, size))


def _copied_where_constant(piece: Piece, alpha: Tensor, size: Size) -> Tensor:
    """Return a piece of enlarged alpha; where alpha is constant, it is copied.

    A network changes a constant by a level or more, and opaque parts are to stay opaque.

    Args:
        piece: Of alpha as a grey image.
        alpha: (B, 1, h, w) in [0, 1], or levels; all of it.
        size: (H, W) of the whole output.

    Returns:
        (B, 1, rows, columns) in [0, 1].
    """
    # The LR pixel of each output pixel of the piece, and the part of alpha around them.
    rows = _nearest(alpha.shape[-2], size[0])[piece.rows]
    columns = _nearest(alpha.shape[-1], size[1])[piece.columns]
    margin = CONSTANT // 2
    top = max(int(rows[0]) - margin, 0)
    left = max(int(columns[0]) - margin, 0)
    part = alpha[..., top : rows[-1] + margin + 1, left : columns[-1] + margin + 1]
    part = as_floats(part)
    # Alpha is constant where the largest value around a pixel equals the smallest.
    most = functional.max_pool2d(part, CONSTANT, stride=1, padding=margin)
    least = -functional.max_pool2d(-part, CONSTANT, stride=1, padding=margin)
    place = (..., rows[:, None] - top, columns - left)
    return torch.where((most == least)[place], part[place], piece.sr.mean(1, keepdim=True))


def _nearest(side: int, out_side: int) -> Tensor:
    """Return the nearest of ``side`` pixels to each of ``out_side``, (out_side,) int64."""
    pixels = torch.arange(side, dtype=torch.float32)
    nearest = functional.interpolate(pixels[None, None], out_side, mode="nearest-exact")
    return nearest[0, 0].long()


def _resized(images: Tensor, size: Size) -> Iterator[Piece]:
    """Yield images (B, C, h, w) resized by bicubic to (H, W), a few rows at a time."""
    columns = slice(0, size[1])
    if images.shape[-2:] == size:
        yield Piece(slice(0, size[0]), columns, images)
        return
    height = max(BAND // size[1], 1)
    for top in range(0, size[0], height):
        rows = slice(top, min(top + height, size[0]))
        source_rows, source_columns, boxes = source_of(rows, columns, size, images.shape[-2:])
        source = images[..., source_rows, source_columns]
        boxes = boxes and boxes * len(images)  # one for each image
        yield Piece(rows, columns, resize(source, (length_of(rows), size[1]), boxes=boxes))


def in_range(images: Tensor) -> Tensor:
    """Clamp images to [0, 1]; infinity becomes NaN, which is counted and reported."""
    images = images.float()
    return images.clamp(0, 1).masked_fill_(images.isinf(), torch.nan)
