"""The two kinds of methods: a ``SuperResolver`` enlarges images, a ``Generator`` creates them.

Your own method is a subclass of ``SuperResolver`` with ``training_step`` and ``restore``, or of
``Generator`` with ``training_step`` and ``generate``. Validation, test and prediction are here;
everything else is in ``image_model``.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable
from fractions import Fraction
from functools import partial
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor

from lightning_modules.backbone.frozen import shape_text
from lightning_modules.color import KINDS, ColorFix, fix_colors
from lightning_modules.image_model import ImageModel
from lightning_modules.noise import Noise, PlacedNoise
from lightning_modules.padding import padded
from lightning_modules.tiling import (
    Tiling,
    Window,
    grid,
    halved_when_full,
    restore_tiled,
    tiled,
    whole,
)

if TYPE_CHECKING:
    from datamodules.base import Batch


class SuperResolver(ImageModel):
    """A method that enlarges a given image.

    Args:
        scale: Factor by which images are enlarged; set by ``data.init_args.scale``.
        color_fix: How outputs get the colours of LR; see ``lightning_modules.color``.

    Raises:
        ValueError: If ``color_fix`` is unknown.
    """

    # Sides of the LR and of the output in pixels. In prediction, larger images go through
    # overlapping tiles.
    tile, tile_output = 512, 1024
    tile_least = 1  # LR pixels; `restore` pads smaller tiles to this
    tile_overlap = 32  # LR pixels
    tile_window: Window = "linear"
    # LR pixels; `restore` pads to multiples of this. Tiles of at least four times this start at
    # multiples and have such sides; otherwise latents of two tiles would not share one lattice.
    tile_multiple = 1
    tile_always = False  # whether validation and test go through tiles too
    tiles_latents = False  # whether `restore` uses `in_tiles`, for `tiling.where: latent`
    color_share = 0.5  # of wavelet, with `color_fix: blend`
    # Whether `restore` is one pass of a network, at any size and without noise, so that it can be
    # exported to ONNX.
    one_pass = False

    def __init__(
        self,
        scale: float,
        color_fix: ColorFix = "none",
        **kwargs: Any,
    ) -> None:
        super().__init__(scale, **kwargs)
        if color_fix not in KINDS:
            raise ValueError(
                f"model.init_args.color_fix is {color_fix!r}; expected {', '.join(KINDS)}"
            )
        self.color_fix: ColorFix = color_fix
        self.tiling = Tiling()  # the command line's group `tiling`
        self.tiles = 1  # of the latest image
        self._side: int | None = None  # of its tiles, in LR pixels; None for no tiles

    @abstractmethod
    def restore(self, batch: Batch, noise: Noise) -> Tensor:
        """Enlarge ``batch["lr"]`` by the paper's sampling algorithm.

        Args:
            batch: ``lr`` (B, 3, h, w) float32 in [0, 1] and ``size``, the (H, W) of the output.
            noise: The only source of randomness.

        Returns:
            (B, 3, H, W), about [0, 1]; the caller clamps it.
        """

    @property
    def options(self) -> dict[str, str | int | float]:
        """Settings that change outputs of the same weights; they label results.

        Subclasses add their own.
        """
        found: dict[str, str | int | float] = {}
        if self.color_fix != "none":
            found["color_fix"] = self.color_fix
        if self.tile_always:  # tiles only in prediction change no metric
            found |= self.tiling.asked
        return found

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
            ValueError: If LR is missing, ``restore`` returns another size, the method has no tiles
                of latents, or the tiles are too small for it.
        """
        if "lr" not in batch:
            raise ValueError(
                f"{type(self).__name__} enlarges images, and {batch['key'][0]} has no LR: set "
                "images in data.init_args, such as data.init_args.predict FOLDER"
            )
        batch = self._own_seeds(batch)
        if self.tiling.where == "latent" and not self.tiles_latents:
            raise ValueError(
                f"tiling.where is latent, and {type(self).__name__} has no tiles of latents: set "
                "it to pixels"
            )
        side = self._tile_side(batch) if tiled or self.tile_always else None
        if side is None or not tiled or self.tiling.size != "auto":
            sr = self._at_side(batch, side)
        else:
            sr = halved_when_full(partial(self._at_side, batch), side, self._least_side)
        return {"sr": fix_colors(sr, self.color_reference(batch), self.color_fix, self.color_share)}

    def in_tiles(
        self,
        function: Callable[[Tensor], Tensor],
        x: Tensor,
        per_lr: float = 1,
        factor: int | Fraction = 1,
        multiple: int = 1,
    ) -> Tensor:
        """Apply a part of ``restore``, in tiles if ``tiling.where`` is ``latent``.

        Args:
            function: An encoder, a decoder, or a denoiser at one step; as in ``tiling.tiled``.
            x: Input (B, C, h, w).
            per_lr: Pixels of ``x`` per LR pixel, along a side.
            factor: Factor by which ``function`` enlarges.
            multiple: Tiles start at multiples of so many pixels of ``x``.

        Returns:
            (B, C', factor h, factor w).
        """
        if self._side is None or self.tiling.where == "pixels":
            return function(x)
        tile, overlap = (math.ceil(n * per_lr) for n in (self._side, self._overlap))
        how = (self._window, factor, multiple, self.tiling.batch)
        return tiled(function, x, tile, overlap, *how)

    def _at_side(self, batch: Batch, side: int | None) -> Tensor:
        self.tiles, self._side = 1, side
        h, w = batch["lr"].shape[-2:]
        if side and max(h, w) > side and self.tiling.where == "pixels":
            return self._in_pixel_tiles(batch, side)
        return self._restored(batch, self.whole_noise(batch))

    def whole_noise(self, batch: Batch) -> Noise:
        """Return the noise of images that are enlarged in one piece.

        Args:
            batch: Batch with the method's own seeds.
        """
        lr = batch["lr"]
        places = [whole((lr.shape[-2], lr.shape[-1]), batch["size"])] * len(batch["seed"])
        return PlacedNoise(batch["seed"], places, lr.device)

    def _in_pixel_tiles(self, batch: Batch, side: int) -> Tensor:
        (h, w), (H, W) = batch["lr"].shape[-2:], batch["size"]
        unit = self.tile_multiple if 4 * self.tile_multiple <= side else 1
        mirrored, size = padded(batch["lr"]), (H, W)
        if H % h == 0 and W % w == 0:  # so that the last tiles are as large as the others
            # As released with InvSR, a side below the tile's is first mirrored up to it.
            mirrored = padded(batch["lr"], unit, side if self._window == "released" else 1)
            size = mirrored.lr.shape[-2] * (H // h), mirrored.lr.shape[-1] * (W // w)
        inner = (mirrored.lr.shape[-2], mirrored.lr.shape[-1])
        tiles = grid(inner, size, side, self._overlap, self._window, unit)
        self.tiles = len(tiles)
        trainer = self._trainer
        bar = trainer is not None and trainer.progress_bar_callback is not None
        first = trainer is None or trainer.is_global_zero
        full = cast("Batch", {**batch, "lr": mirrored.lr, "size": size})
        sr = restore_tiled(self._restored, full, tiles, self.tiling.batch, bar and first)
        return mirrored.crop(sr, (H, W)).clamp_(0, 1)  # weights add up to 1 except for rounding

    @property
    def _overlap(self) -> int:
        return self.tile_overlap if self.tiling.overlap is None else self.tiling.overlap

    @property
    def _window(self) -> Window:
        return self.tiling.window or self.tile_window

    @property
    def _least_side(self) -> int:
        # Latents are padded once, before they are cut into tiles.
        least = self.tile_least if self.tiling.where == "pixels" else 1
        return max(2 * self._overlap, least)

    def _tile_side(self, batch: Batch) -> int:
        asked = self.tiling.size
        if asked != "auto":
            if asked < self.tile_least and self.tiling.where == "pixels":
                raise ValueError(
                    f"tiling.size is {asked}, and {type(self).__name__} pads smaller tiles to "
                    f"{self.tile_least} pixels: set it to {self.tile_least} or more, or to auto"
                )
            return asked
        sides = batch["lr"].shape[-2:]
        factor = max(size / side for size, side in zip(batch["size"], sides, strict=True))
        # With tiles below four overlaps, nearly half of the computation would be discarded.
        least = max(4 * self._overlap, self.tile_least)
        return min(self.tile, max(int(self.tile_output / factor), least))

    def _restored(self, batch: Batch, noise: Noise) -> Tensor:
        sr = self.restore(batch, noise)
        self.drew_noise |= noise.drew
        expected = (len(batch["lr"]), 3, *batch["size"])
        if sr.shape != expected:
            raise ValueError(
                f"{type(self).__name__} made {shape_text(sr.shape)} of {batch['key'][0]} "
                f"({shape_text(batch['lr'].shape)}), expected {shape_text(expected)}: its scale is "
                f"{self.scale:g}; set data.init_args.scale (or the source's) to what it was "
                "trained for"
            )
        return _in_range(sr)

    def validation_step(
        self, batch: Batch, batch_idx: int, dataloader_idx: int = 0
    ) -> dict[str, Tensor]:
        """Restore a validation batch; callbacks measure the output."""
        return self.enlarge(batch)

    def test_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> dict[str, Tensor]:
        """Restore a test batch; callbacks measure the output."""
        return self.enlarge(batch)

    def predict_step(
        self, batch: Batch, batch_idx: int, dataloader_idx: int = 0
    ) -> dict[str, Tensor] | None:
        """Enlarge one image, in tiles if it is large; None if it could not be read."""
        return None if "error" in batch else self.enlarge(batch, tiled=True)


class Generator(ImageModel):
    """A method that creates images from noise alone or from text.

    Args:
        scale: Factor between the base's own resolution and the output; set by
            ``data.init_args.scale``.
        optimizer: Makes the optimiser of the trainable parameters.
        lr_scheduler: Makes the learning-rate schedule, which is stepped once a step; by default
            there is none.
        weights: Weights to start from: a file, or a name of ``configs/weights.yaml``.
    """

    @abstractmethod
    def generate(self, batch: Batch, noise: Noise) -> Tensor:
        """Make one image for each key of the batch: the paper's sampling algorithm.

        Args:
            batch: ``key``, ``seed``, ``size``, ``frames`` for clips and, for conditioned methods,
                ``text``.
            noise: The only source of randomness.

        Returns:
            (B, 3, H, W), for clips (B, F, 3, H, W), about [0, 1]; the caller clamps it.
        """

    @torch.no_grad()
    def sample(self, batch: Batch) -> dict[str, Tensor]:
        """Generate, check and clamp.

        Args:
            batch: Batch as for ``generate``.

        Returns:
            ``{"sr": (B, 3, H, W) float32 in [0, 1]}``; for clips (B, F, 3, H, W).

        Raises:
            ValueError: If ``generate`` returns another size.
        """
        batch = self._own_seeds(batch)
        noise = Noise(batch["seed"], self.device)
        images = self.generate(batch, noise)
        self.drew_noise |= noise.drew
        frames = (batch["frames"],) if "frames" in batch else ()
        expected = (len(batch["key"]), *frames, 3, *batch["size"])
        if images.shape != expected:
            raise ValueError(
                f"{type(self).__name__} made {shape_text(images.shape)}, expected "
                f"{shape_text(expected)}"
            )
        return {"sr": _in_range(images)}

    def validation_step(
        self, batch: Batch, batch_idx: int, dataloader_idx: int = 0
    ) -> dict[str, Tensor]:
        """Generate for a validation batch; callbacks measure the output."""
        return self.sample(batch)

    def test_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> dict[str, Tensor]:
        """Generate for a test batch; callbacks measure the output."""
        return self.sample(batch)

    def predict_step(
        self, batch: Batch, batch_idx: int, dataloader_idx: int = 0
    ) -> dict[str, Tensor] | None:
        """Generate the images of a batch; None if it could not be read."""
        return None if "error" in batch else self.sample(batch)


def _in_range(images: Tensor) -> Tensor:
    # Clamping would hide infinity; NaN is counted and reported, and makes a metric NaN.
    images = images.float()
    return torch.where(images.isinf(), torch.nan, images.clamp(0, 1))
