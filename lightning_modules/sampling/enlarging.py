"""How an image is enlarged: whole or in tiles, checked, clamped, and with corrected colours."""

from __future__ import annotations

import logging
from abc import abstractmethod
from fractions import Fraction
from functools import partial
from typing import Any, cast, final

import torch
from lightning.pytorch import LightningModule
from torch import Tensor
from torch.nn import functional

from degradations.bicubic import resize
from files.batch import Batch, tiles_of
from files.method import Method
from lightning_modules.noise import Noise, PlacedNoise, Size, with_noise_seeds
from lightning_modules.sampling.color import ColorFix, fix_colors
from lightning_modules.sampling.tiling import (
    Tiling,
    Window,
    grid,
    halved_when_full,
    padded,
    restore_tiled,
)
from lightning_modules.trainer import trainer_of
from lightning_modules.weights import shape_text

log = logging.getLogger(__name__)
CONSTANT = 5  # side of the square, in LR pixels, in which alpha must be constant to be copied


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
        batch = with_noise_seeds(batch, self.noise_seed)
        side = self._tile_side(batch) if tiled or self.tile_always else None
        if side is None or not tiled or self.tiling.size != "auto":
            sr = self._at_side(batch, side)
        else:
            sr = halved_when_full(partial(self._at_side, batch), side, self._least_side)
        return {"sr": fix_colors(sr, self.color_reference(batch), self.color_fix)}

    def _least_side(self) -> int:
        return max(2 * self._overlap, self.tile_least)

    def enlarge_to_size(self, batch: Batch) -> dict[str, Tensor]:
        """As ``enlarge``, in tiles; the output of a method with one scale is resized by bicubic."""
        if not self.has_one_scale:
            try:
                return self.enlarge(batch, tiled=True)
            except WrongScaleError:
                self.has_one_scale = True
                log.info("enlarged by %g, and then resized by bicubic", self.scale)
        own_size = self.own_size(batch["lr"])
        sr = self.enlarge(cast("Batch", {**batch, "size": own_size}), tiled=True)["sr"]
        return {"sr": sr if own_size == batch["size"] else resize(sr, batch["size"])}

    def enlarge_alpha(self, batch: Batch, alpha: Tensor) -> Tensor:
        """Enlarge transparency as a grey image; where it is constant, it is copied.

        A network changes a constant by a level or more, and opaque parts are to stay opaque.

        Args:
            batch: As of the image's colours.
            alpha: (1, 1, h, w) in [0, 1].

        Returns:
            (1, 1, H, W) float32 in [0, 1].
        """
        margin = CONSTANT // 2
        most = functional.max_pool2d(alpha, CONSTANT, stride=1, padding=margin)
        least = -functional.max_pool2d(-alpha, CONSTANT, stride=1, padding=margin)
        copied = functional.interpolate(alpha, batch["size"], mode="nearest-exact")
        is_constant = most == least
        if is_constant.all():
            return copied
        grey = alpha.expand(-1, 3, -1, -1).contiguous()
        enlarged = self.enlarge_to_size(cast("Batch", {**batch, "lr": grey}))["sr"]
        varies = functional.interpolate((~is_constant).float(), batch["size"], mode="nearest-exact")
        return torch.where(varies > 0, enlarged.mean(1, keepdim=True), copied)

    def _at_side(self, batch: Batch, side: int | None) -> Tensor:
        self._tile_count = 1
        self._tile_size = None
        if side and max(batch["lr"].shape[-2:]) > side:
            return self._in_tiles(batch, side)
        tiles = tiles_of(batch)
        noise = PlacedNoise(batch["seed"], tiles, batch["lr"].device)
        return self._restored(cast("Batch", {**batch, "tiles": tiles}), noise)

    def _in_tiles(self, batch: Batch, side: int) -> Tensor:
        lr = batch["lr"]
        h, w = lr.shape[-2:]
        size = H, W = batch["size"]
        unit = self._tile_unit(side)
        # Up to the tiles' unit, so that the last ones are as large as the others. As released with
        # InvSR, a side below the tile's is first mirrored up to it.
        least = side if self._window == "released" else 1
        if H % h == 0 and W % w == 0:
            mirrored = padded(lr, unit, least)
            size = mirrored.lr.shape[-2] * (H // h), mirrored.lr.shape[-1] * (W // w)
        elif self.exact_scale and self.own_size(lr) == (H, W):
            mirrored = padded(lr, unit, least)
            size = self.own_size(mirrored.lr)
        else:
            mirrored = padded(lr)
        lr_size = (mirrored.lr.shape[-2], mirrored.lr.shape[-1])
        tiles = grid(lr_size, size, side, self._overlap, self._window, unit, self.tile_least)
        self._tile_count = len(tiles)
        self._tile_size = tiles[0].tile.side
        trainer = trainer_of(self)
        bar = trainer is not None and trainer.progress_bar_callback is not None
        first = trainer is None or trainer.is_global_zero
        full = cast("Batch", {**batch, "lr": mirrored.lr, "size": size})
        sr = restore_tiled(self._restored, full, tiles, self.tiling.batch, bar and first)
        return mirrored.crop(sr, (H, W)).clamp_(0, 1)  # weights add up to 1 except for rounding

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

    def _tile_side(self, batch: Batch) -> int:
        size = self.tiling.size
        if size != "auto":
            if size < self.tile_least:
                raise ValueError(
                    f"tiling.size is {size}, and {type(self).__name__} pads smaller tiles to "
                    f"{self.tile_least} pixels: set it to {self.tile_least} or more, or to auto"
                )
            return size
        return self.default_side(batch)

    def default_side(self, batch: Batch) -> int:
        """Return the largest side of a tile in LR pixels, where the user sets none."""
        sides = batch["lr"].shape[-2:]
        factor = max(out_side / side for out_side, side in zip(batch["size"], sides, strict=True))
        # With tiles below four overlaps, nearly half of the computation would be discarded.
        least = max(4 * self._blended_overlap, self.tile_least)
        return min(self.tile, max(int(self.tile_output / factor), least))

    def _restored(self, batch: Batch, noise: Noise) -> Tensor:
        sr = self.restore(batch, noise)
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
