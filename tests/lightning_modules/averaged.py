"""A space with the factor of an autoencoder, and none in it."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from lightning_modules.backbone.space import Space
from lightning_modules.noise import Noise


class Averaged(Space):
    """Pixels averaged over squares, and repeated to come back.

    Args:
        factor: Side of the squares.
        deviation: Of what encoding draws from.
    """

    channels = 3
    source = "none 0123456789abcdef"

    def __init__(self, factor: int = 8, deviation: float = 0.01) -> None:
        super().__init__()
        self.factor, self.drawn = factor, deviation

    def distribution(self, image: Tensor) -> tuple[Tensor, Tensor]:
        mean = self.encode(image)
        return mean, torch.full_like(mean, self.drawn)

    def _encode(self, image: Tensor, noise: Noise | None) -> Tensor:
        z = functional.avg_pool2d(image * 2 - 1, self.factor)
        return z if noise is None else z + self.drawn * noise.normal(z.shape)

    def _decode(self, z: Tensor) -> Tensor:
        return functional.interpolate(z, scale_factor=self.factor, mode="nearest") / 2 + 0.5
