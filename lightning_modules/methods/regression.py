"""Methods of one pass of a network, and regression, which trains one by a pixel loss.

Regression is shared by EDSR (Lim et al., CVPRW 2017; arXiv 1707.02921), IMDN
(Hui et al., ACM MM 2019; arXiv 1909.11856) and LIIF (Chen et al., CVPR 2021; arXiv 2012.09161); the
network is an argument.
Differs from the papers in: LIIF trains on all pixels of a crop, not on samples of them; and at one
scale, or, with ``data.init_args.crops.scales``, at one scale per batch, not per image.
"""

from __future__ import annotations

import inspect
import itertools
import logging
import math
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from degradations.compiling import allow_kinds
from files.batch import Batch, Box, Piece, boxes_of
from files.memory import free_memory
from files.numbers import UnitInterval
from lightning_modules.base import SuperResolver
from lightning_modules.losses import charbonnier
from lightning_modules.noise import Noise, Size, augmented
from lightning_modules.sampling.probing import (
    bytes_per_pixel,
    computes_in_bf16,
    keeps_quality_in_bf16,
    reach_of,
)
from lightning_modules.sampling.tiling import Window

log = logging.getLogger(__name__)
LARGEST_WHOLE = 1_500_000  # LR pixels of an image that is not cut into tiles
LARGEST_TILE = 500_000  # LR pixels; larger ones save less than one pixel in eight
LARGEST_STRIP = 120_000_000  # bytes of the output of a row of tiles
MEMORY_SHARE = 0.5  # of what is free, for one tile
NetworkCallable = Callable[[float], nn.Module]
LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "l1": functional.l1_loss,
    "charbonnier": charbonnier,
}


def _build_network(network: NetworkCallable, scale: float) -> nn.Module:
    """Make the network, or explain why a class without the argument scale does not fit."""
    try:
        return network(scale)
    except TypeError as error:
        if "__init__() takes" not in str(error):  # another error than the number of arguments
            raise
        raise ValueError(
            f"model.init_args.network: {error}. The first argument of a network is the scale: "
            "def __init__(self, scale: float, ...)"
        ) from error


def _has_8_bits(batch: Batch) -> bool:
    """Return whether all images of a batch had 8 bits a channel in their files."""
    return "meta" in batch and all(meta.get("bit_depth") == 8 for meta in batch["meta"])


class OnePass(SuperResolver):
    """A method that enlarges by one pass of a network, without noise.

    Args:
        scale: Factor by which images are enlarged; set by ``data.init_args.scale``.
        network: The network: a class whose first argument is the scale, and whose ``forward(lr)``
            or ``forward(lr, size, boxes)`` returns the enlarged image. Its convolutions are in
            channels-last layout.
        compile: Compile the network with ``torch.compile`` at the first call.
        self_ensemble: Output the mean over the eight flips and transpositions of the input, for
            eight times the computation: the papers' rows with "+" (Lim et al., section 3.4).
            Training has none.
    """

    one_pass = True
    half_outputs = False
    trained_parts: tuple[str, ...] | None = ("network",)
    released_parts = ("network",)

    def __init__(
        self,
        scale: float,
        network: NetworkCallable,
        compile: bool = False,
        self_ensemble: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(scale, **kwargs)
        self.self_ensemble = self_ensemble
        # In Python it may be a network that is built already.
        self.network = (
            network if isinstance(network, nn.Module) else _build_network(network, self.scale)
        )
        # A network with its own weights, such as spandrel's, names their source.
        self.weights_source = getattr(self.network, "weights_source", None)
        # Tiles begin at multiples of it: the network sees pixels in their phase in the image.
        self.tile_multiple = int(getattr(self.network, "divisor", 1))
        self.network.to(memory_format=torch.channels_last)  # in which convolutions are fastest
        self._forward_arguments = set(inspect.signature(self.network.forward).parameters)
        if compile:
            allow_kinds()
            self.network.compile()  # in place: names of tensors stay

    def forward(
        self,
        lr: Tensor,
        size: tuple[int, int] | None = None,
        boxes: Sequence[Box] | None = None,
    ) -> Tensor:
        """Enlarge.

        Args:
            lr: (B, 3, h, w) in [0, 1].
            size: (H, W) of the output; by default that of LR times the scale.
            boxes: B parts of lr that the outputs cover; by default all of it.

        Returns:
            (B, 3, H, W), unclamped.
        """
        lr = lr.contiguous(memory_format=torch.channels_last)
        if "size" not in self._forward_arguments:
            return self.network(lr)
        size = size or self.own_size(lr)
        if "boxes" in self._forward_arguments:
            return self.network(lr, size, boxes)
        return self.network(lr, size)

    def enlarged_for(self, lr: Tensor, hr: Tensor, size: tuple[int, int]) -> Tensor:
        """Enlarge LR in training, and check the output's size.

        Args:
            lr: (B, 3, h, w) in [0, 1].
            hr: (B, 3, H, W), which the output is compared with.
            size: (H, W) of the output.

        Raises:
            ValueError: If the network returns another size.
        """
        sr = self(lr, size)
        if sr.shape != hr.shape:  # some shapes would be broadcast silently
            raise ValueError(
                f"{type(self.network).__name__} made {tuple(sr.shape)}, expected "
                f"{tuple(hr.shape)}: does it enlarge by data.init_args.scale, {self.scale:g}?"
            )
        return sr

    @torch.no_grad()
    def restore(self, batch: Batch, noise: Noise) -> Tensor:
        """One forward pass, or the mean of eight; deterministic."""
        enlarge = self._self_ensemble if self.self_ensemble else self
        if not self._uses_bf16:
            return enlarge(batch["lr"], batch["size"], boxes_of(batch))
        with torch.autocast("cpu", torch.bfloat16):
            return enlarge(batch["lr"], batch["size"], boxes_of(batch))

    def _self_ensemble(self, lr: Tensor, size: Size, boxes: Sequence[Box] | None) -> Tensor:
        """As ``forward``, the mean over flips and transpositions, which are undone."""
        h, w = lr.shape[-2:]
        total = torch.zeros((), device=lr.device)
        for flip_rows, flip_columns, transpose in itertools.product((False, True), repeat=3):
            axes = [-2] * flip_rows + [-1] * flip_columns  # those that are flipped
            turned, turned_size = lr.flip(axes), size
            turned_boxes = []
            for (top, bottom), (left, right) in boxes or ():
                rows = (h - bottom, h - top) if flip_rows else (top, bottom)
                columns = (w - right, w - left) if flip_columns else (left, right)
                turned_boxes.append((columns, rows) if transpose else (rows, columns))
            if transpose:
                turned, turned_size = turned.mT, (size[1], size[0])
            sr = self(turned, turned_size, turned_boxes or None)
            sr = sr.mT if transpose else sr
            total = total + sr.flip(axes).float()
        return total / 8

    @property
    def output_settings(self) -> dict[str, str | int | float]:
        """As ``InTiles``, with ``self_ensemble``."""
        settings = super().output_settings
        if self.self_ensemble:
            settings["self_ensemble"] = "true"
        return settings

    def _enlarged(self, batch: Batch, size: Size, tiled: bool) -> Iterator[Piece]:
        """As ``SuperResolver``; in prediction (``tiled``) perhaps in bfloat16.

        Only of images of 8 bits a channel: the finer levels of others would be lost.
        """
        may_use_bf16 = tiled and self.may_use_bf16 and _has_8_bits(batch)
        self._uses_bf16 = may_use_bf16 and self._bf16_is_good
        return super()._enlarged(batch, size, tiled)

    @cached_property
    def _bf16_is_good(self) -> bool:
        """Whether bfloat16 on this CPU keeps the quality of this network; measured once."""
        if self.device.type != "cpu" or not computes_in_bf16():
            return False
        is_good = keeps_quality_in_bf16(self)
        if is_good:
            log.info(
                "computing in bfloat16, on average within half a level of float32; "
                "trainer.precision 32-true turns it off"
            )
        else:
            log.info("computing in float32: bfloat16 would lose too much")
        return is_good

    @cached_property
    def _reach(self) -> int | None:
        """Distance in LR pixels within which an output depends on LR; None if it is too large."""
        with self._precision():
            reach = reach_of(self, self.device)
        if reach is None:
            log.info(
                "tiles of %d pixels are blended: %s looks too far for an exact overlap",
                self.tile,
                type(self.network).__name__,
            )
        return reach

    @cached_property
    def _bytes_per_pixel(self) -> float:
        """Measured memory of a pass, by LR pixel."""
        with self._precision():
            return bytes_per_pixel(self.network, self, self.device)

    @property
    def _exact_overlap(self) -> int | None:
        """Overlap in LR pixels with which tiles change nothing; None if none does, or few enough.

        The output depends on pixels up to ``_reach``. Tiles are cut in the middle of their overlap.
        """
        blends = self.tiling.overlap is not None or self.tiling.window not in (None, "cut")
        if blends or self._reach is None:
            return None
        overlap = 2 * (self._reach + self.tile_multiple)
        is_small = self.tiling.size != "auto" and self.tiling.size < 2 * overlap
        return None if is_small else overlap

    @property
    def _overlap(self) -> int:
        """Overlap of tiles in LR pixels: the exact one if there is one."""
        return self._exact_overlap or super()._overlap

    @property
    def _window(self) -> Window:
        """How overlaps are joined: cut if the overlap is exact."""
        if self.tiling.window is None and self._exact_overlap is not None:
            return "cut"
        return super()._window

    def default_tile(self, batch: Batch) -> Size:
        """As ``SuperResolver.default_tile``; larger if memory allows it."""
        height, width = batch["lr"].shape[-2:]
        tile = super().default_tile(batch)
        if max(height, width) <= max(tile):
            return tile
        budget = MEMORY_SHARE * free_memory(self.device) / self.tiling.batch
        pixels = int(budget / self._bytes_per_pixel)
        if height * width <= min(pixels, LARGEST_WHOLE):
            return height, width
        overlap = self._exact_overlap
        if overlap is None:
            return tile
        # An output larger than the network's own takes more memory for each LR pixel.
        out_height, out_width = batch["size"]
        own_height, own_width = self.own_size(batch["lr"])
        growth = out_height * out_width / (own_height * own_width)
        pixels = int(min(pixels, LARGEST_TILE) / max(growth, 1))
        # A row of tiles spans the image's width; its output is held until it is written.
        pixel_bytes = 3 if _has_8_bits(batch) else 6
        row_bytes = pixel_bytes * out_width * out_height / height
        # Square unless that row would be too large, then flatter.
        rows = min(math.isqrt(pixels), int(LARGEST_STRIP / row_bytes) + overlap)
        rows = max(rows, 2 * overlap)
        return rows, max(pixels // rows, 2 * overlap)


class Regression(OnePass):
    """Train any network to predict the high-resolution image directly.

    Args:
        scale: Factor by which images are enlarged; set by ``data.init_args.scale``.
        network: The network: a class whose first argument is the scale, and whose ``forward(lr)``
            or ``forward(lr, size)`` returns the enlarged image.
        loss: ``l1``, or ``charbonnier``, a smooth L1.
        noise_probability: Share of training inputs with added noise, for the base network of a
            cascade; see ``lightning_modules.CasArbi``.
    """

    def __init__(
        self,
        scale: float,
        network: NetworkCallable,
        loss: Literal["l1", "charbonnier"] = "l1",
        noise_probability: UnitInterval = 0.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(scale, network, **kwargs)
        self.noise_probability = noise_probability
        self.loss = LOSSES[loss]

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Return the distance between the enlarged LR and HR.

        Raises:
            ValueError: If the network returns another size.
        """
        lr = batch["lr"]
        hr = batch["hr"]
        if self.noise_probability:
            lr, _ = augmented(lr, self.noise_probability)
        loss = self.loss(self.enlarged_for(lr, hr, batch["size"]), hr)
        self.log("train/loss", loss)
        return loss
