"""How an image is enlarged: whole or in tiles, checked, clamped, and with corrected colours."""

from __future__ import annotations

import logging
from abc import abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from functools import partial
from typing import Any, cast, final

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.plugins import Precision
from torch import Tensor

from degradations.base import as_floats
from degradations.bicubic import resize
from files.batch import Batch, Piece, tiles_of
from files.memory import refuse_whole
from files.method import Method
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
)
from lightning_modules.trainer import trainer_of
from lightning_modules.weights import shape_text

log = logging.getLogger(__name__)
CANVAS = 32  # bytes of memory for each pixel of an output that is corrected as a whole
RESIZE_REACH = 3  # LR pixels on each side; what bicubic sees when it reduces, and its rounding


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
        self.has_one_scale = False  # known when another one failed

    @abstractmethod
    def restore(self, batch: Batch, noise: Noise) -> Tensor:
        """As ``lightning_modules.SuperResolver.restore``."""

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
            ValueError: If LR is missing, or the tiles are too small for the method.
        """
        if "lr" not in batch:
            raise ValueError(
                f"{type(self).__name__} enlarges images, and {batch['key'][0]} has no LR: set "
                "images in data.init_args, such as data.init_args.predict FOLDER"
            )
        sr = joined(self._enlarged(batch, batch["size"], tiled), batch["lr"], batch["size"])
        return {"sr": fix_colors(sr, self.color_reference(batch), self.color_fix)}

    def enlarge_to_size(self, batch: Batch) -> dict[str, Tensor]:
        """As ``enlarge``, in tiles; the output of a method with one scale is reduced by bicubic.

        Raises:
            WrongScaleError: If ``size`` is above the method's own.
        """
        return {"sr": joined(self.pieces(batch), batch["lr"], batch["size"])}

    @torch.no_grad()
    def pieces(self, batch: Batch) -> Iterator[Piece]:
        """As ``enlarge_to_size``, without the whole output in memory; each tile gives a piece.

        The correction of colours, and the reduction of blended tiles, need the whole output, which
        is a single piece then.

        Args:
            batch: As for ``enlarge``; ``lr`` may be levels in uint8.

        Raises:
            WrongScaleError: As ``enlarge_to_size``.
            MemoryError: If the whole output is needed, and larger than what is free.
        """
        size = batch["size"]
        if not self.has_one_scale:
            try:
                yield from self._pieces(batch, size)
                return
            except WrongScaleError:  # of the first tile
                self.has_one_scale = True
        own_size = self.own_size(batch["lr"])
        if own_size != size and own_size[0] >= size[0] and own_size[1] >= size[1]:
            log.info("enlarged by %g, and reduced to %d x %d", self.scale, size[1], size[0])
            batch = cast("Batch", {**batch, "size": own_size})
        yield from self._pieces(batch, size)

    def _pieces(self, batch: Batch, size: Size) -> Iterator[Piece]:
        """Yield the output of ``batch["size"]``, reduced to ``size`` if that is smaller."""
        is_reduced = batch["size"] != size
        by_tiles = not is_reduced or (self._window == "cut" and self.scale.is_integer())
        if self.color_fix == "none" and by_tiles:
            yield from self._enlarged(batch, size, tiled=True)
            return
        refuse_whole(batch["size"], CANVAS, self.device)
        floats = cast("Batch", {**batch, "lr": as_floats(batch["lr"])})
        sr = self.enlarge(floats, tiled=True)["sr"]
        yield Piece(slice(0, size[0]), slice(0, size[1]), resize(sr, size) if is_reduced else sr)

    def _enlarged(self, batch: Batch, size: Size, tiled: bool) -> Iterator[Piece]:
        """Restore an image, whole or in tiles, which are reduced if ``size`` is smaller."""
        batch = with_noise_seeds(batch, self.noise_seed)
        tile = self._tile(batch) if tiled or self.tile_always else None
        if tile is None or not tiled or self.tiling.size != "auto":
            yield from self._in_tiles_of(batch, size, tile)
        else:
            work = partial(self._in_tiles_of, batch, size)
            yield from halved_when_full(work, tile, self._least_side)

    def _least_side(self) -> int:
        return max(2 * self._overlap, self.tile_least)

    def _in_tiles_of(self, batch: Batch, size: Size, tile: Size | None) -> Iterator[Piece]:
        self._tile_count = 1
        self._tile_size = None
        h, w = batch["lr"].shape[-2:]
        if tile is not None and (h > tile[0] or w > tile[1]):
            yield from self._in_tiles(batch, size, tile)
            return
        tiles = tiles_of(batch)
        noise = PlacedNoise(batch["seed"], tiles, batch["lr"].device)
        lr = as_floats(batch["lr"])
        sr = self._restored(cast("Batch", {**batch, "lr": lr, "tiles": tiles}), noise)
        if batch["size"] != size:
            sr = resize(sr, size)
        yield Piece(slice(0, size[0]), slice(0, size[1]), sr)

    def _in_tiles(self, batch: Batch, size: Size, tile: Size) -> Iterator[Piece]:
        lr = batch["lr"]
        h, w = lr.shape[-2:]
        H, W = batch["size"]
        unit = self._tile_unit(max(tile))
        # Up to the tiles' unit, so that the last ones are as large as the others. As released with
        # InvSR, a side below the tile's is first mirrored up to it.
        least = max(tile) if self._window == "released" else 1
        restore, overlap = self._restored, self._overlap
        if size != (H, W):
            mirrored, full_size = padded(lr), size
            restore = self._reduced
            overlap += 2 * RESIZE_REACH
        elif H % h == 0 and W % w == 0:
            mirrored = padded(lr, unit, least)
            full_size = mirrored.lr.shape[-2] * (H // h), mirrored.lr.shape[-1] * (W // w)
        elif self.exact_scale and self.own_size(lr) == (H, W):
            mirrored = padded(lr, unit, least)
            full_size = self.own_size(mirrored.lr)
        else:
            mirrored, full_size = padded(lr), (H, W)
        lr_size = (mirrored.lr.shape[-2], mirrored.lr.shape[-1])
        tiles = grid(lr_size, full_size, tile, overlap, self._window, unit, self.tile_least)
        self._tile_count = len(tiles) * len(tiles[0])
        self._tile_size = tiles[0][0].tile.side
        trainer = trainer_of(self)
        bar = trainer is not None and trainer.progress_bar_callback is not None
        first = trainer is None or trainer.is_global_zero
        full = cast("Batch", {**batch, "lr": mirrored.lr, "size": full_size})
        for piece in restore_tiled(restore, full, tiles, self.tiling.batch, bar and first):
            part = mirrored.crop_piece(piece, full_size, size)
            if part.sr.numel():
                part.sr.clamp_(0, 1)  # weights add up to 1 except for rounding
                yield part

    def _reduced(self, batch: Batch, noise: Noise) -> Tensor:
        """Restore tiles by the method's own scale, a whole number, and reduce them."""
        own = self.own_size(batch["lr"])
        sr = self._restored(cast("Batch", {**batch, "size": own}), noise)
        boxes = []
        for tile in batch["tiles"]:
            (top, bottom), (left, right) = tile.box
            rows = top * self.scale, bottom * self.scale
            boxes.append((rows, (left * self.scale, right * self.scale)))
        return resize(sr, batch["size"], boxes=boxes)

    def own_size(self, lr: Tensor) -> Size:
        """Return (H, W) of LR (B, 3, h, w) enlarged by ``scale``, whatever a batch asks for."""
        return round(lr.shape[-2] * self.scale), round(lr.shape[-1] * self.scale)

    def _tile_unit(self, side: int) -> int:
        if 4 * self.tile_multiple <= side:
            return self.tile_multiple
        if self.exact_scale:
            return Fraction(self.scale).limit_denominator(100).denominator
        return 1

    @property
    def _blended_overlap(self) -> int:
        return self.tile_overlap if self.tiling.overlap is None else self.tiling.overlap

    @property
    def _overlap(self) -> int:
        return self._blended_overlap

    @property
    def _window(self) -> Window:
        return self.tiling.window or self.tile_window

    def _tile(self, batch: Batch) -> Size:
        size = self.tiling.size
        if size != "auto":
            if size < self.tile_least:
                raise ValueError(
                    f"tiling.size is {size}, and {type(self).__name__} pads smaller tiles to "
                    f"{self.tile_least} pixels: set it to {self.tile_least} or more, or to auto"
                )
            return size, size
        return self.default_tile(batch)

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
        with self._precision() as precision:
            lr = precision.convert_input(batch["lr"])
            sr = self.restore(cast("Batch", {**batch, "lr": lr}), noise)
        self._drew_noise |= noise.drew
        expected = (len(batch["lr"]), 3, *batch["size"])
        if sr.shape != expected:
            raise WrongScaleError(
                f"{type(self).__name__} made {shape_text(sr.shape)} of {batch['key'][0]}, expected "
                f"{shape_text(expected)}: its scale is {self.scale:g}; set data.init_args.scale to "
                "that"
            )
        return in_range(sr)


def in_range(images: Tensor) -> Tensor:
    """Clamp images to [0, 1]; infinity becomes NaN, which is counted and reported."""
    images = images.float()
    return images.clamp(0, 1).masked_fill_(images.isinf(), torch.nan)
