"""Bicubic interpolation, the baseline of every table. Nothing is trained."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from degradations.bicubic import resize
from lightning_modules.base import SuperResolver
from lightning_modules.noise import Noise

if TYPE_CHECKING:
    from datamodules.base import Batch


class Bicubic(SuperResolver):
    """Enlarge with the cubic kernel of MATLAB and Pillow (a = -0.5).

    Args:
        scale: Factor by which images are enlarged; set by ``data.init_args.scale``.
    """

    def __init__(self, scale: float) -> None:
        super().__init__(scale)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Raise: there is nothing to train.

        Raises:
            ValueError: Always.
        """
        raise ValueError(
            "Bicubic has nothing to train: use test or predict, or another model.class_path for fit"
        )

    def restore(self, batch: Batch, noise: Noise) -> Tensor:
        """Interpolate."""
        return resize(batch["lr"], batch["size"])
