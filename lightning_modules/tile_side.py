"""How large tiles may be for the memory that is free."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor

from lightning_modules.memory import free_bytes, peak_bytes
from lightning_modules.noise import Noise, PlacedNoise
from lightning_modules.tiling import whole

if TYPE_CHECKING:
    from datamodules.base import Batch

Restore = Callable[["Batch", Noise], Tensor]

log = logging.getLogger(__name__)

TRIAL = 64  # LR pixels, side of the tile by which a method's memory is measured
SHARE = 0.5  # of the memory that is free, for tiles


class TileSide:
    """Sides of a method's tiles; measured on a small one, once for factors that are alike."""

    def __init__(self) -> None:
        self._figures: dict[float, float] = {}  # bytes that an output pixel takes, by factor

    def fitting(
        self,
        restore: Restore,
        batch: Batch,
        side: int,
        least: int,
        at_once: int = 1,
        processes: int = 1,
    ) -> int:
        """The side that is wished, or half of it, or a quarter, ..., where memory is short.

        Halves, so that a little more or less of memory makes no other picture. Of small pictures,
        no larger than a few trials, the answer is what was wished.

        Args:
            restore: The method's.
            batch: What is to be enlarged.
            side: What is wished, in LR pixels.
            least: What has to do in any case.
            at_once: Tiles that are enlarged at once.
            processes: Of this run on this machine; on a CPU they share what is free.
        """
        sides, device = batch["lr"].shape[-2:], batch["lr"].device
        if side <= least or math.prod(sides) <= (2 * TRIAL) ** 2:
            return side
        if (free := free_bytes(device)) is None:
            return side
        if device.type == "cpu":
            free //= processes
        factor = max(size / n for size, n in zip(batch["size"], sides, strict=True))
        of_pixel = self._figure(restore, batch, factor)
        figure = of_pixel * factor**2 * at_once * len(batch["lr"])
        fitting = side
        while figure * math.prod(min(fitting, n) for n in sides) > free * SHARE and fitting > least:
            fitting = max(fitting // 2, least)
        if fitting < side:
            log.info(
                "tiles of %d pixels instead of %d: %.1f GB are free, and an output pixel takes "
                "%.1f kB",
                *(fitting, side, free / 1e9, of_pixel / 1e3),
            )
        return fitting

    def _figure(self, restore: Restore, batch: Batch, factor: float) -> float:
        # Pictures that all become one size have a factor each.
        near = [known for known in self._figures if 0.8 < factor / known < 1.25]
        if not near:
            near = [factor]
            corner = batch["lr"][:1, :, :TRIAL, :TRIAL]
            h, w = corner.shape[-2:]
            size = round(h * factor), round(w * factor)
            tile = {**_first(batch), "lr": corner, "size": size}
            noise = PlacedNoise(batch["seed"][:1], [whole((h, w), size)], corner.device)
            taken = peak_bytes(lambda: restore(cast("Batch", tile), noise), corner.device)
            self._figures[factor] = taken / math.prod(size)
        return self._figures[near[0]]


def shrinking(work: Callable[[int], Tensor], side: int, least: int) -> Tensor:
    """Work in tiles, and again in tiles of half the side where a graphics card has no more memory.

    Args:
        work: From the side of tiles, in LR pixels.
        side: To begin with.
        least: What has to do in any case.

    Raises:
        torch.OutOfMemoryError: It does not do.
    """
    while True:
        try:
            return work(side)
        except torch.OutOfMemoryError:
            if side <= least:
                raise
        # Behind the handler, in which the error still holds what was computed.
        torch.cuda.empty_cache()
        smaller = max(side // 2, least)
        log.warning(
            "tiles of %d pixels do not fit into the graphics card's memory: once more, with %d",
            *(side, smaller),
        )
        side = smaller


def _first(batch: Batch) -> dict[str, Any]:
    # What a batch says of its first picture.
    return {
        key: value[:1] if isinstance(value, Tensor | list) else value
        for key, value in batch.items()
    }
