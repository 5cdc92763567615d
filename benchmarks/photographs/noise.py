"""The control of images that are generated without LR: white noise on a plain enlargement."""

from __future__ import annotations

from torch import Tensor

from files.batch import Batch
from lightning_modules import Bicubic
from lightning_modules.noise import Noise


class NoisyBicubic(Bicubic):
    """Bicubic with grey white noise.

    Args:
        scale: Factor by which images are enlarged.
        strength: Deviation of the noise; white is 1.
    """

    def __init__(self, scale: float, strength: float) -> None:
        super().__init__(scale)
        self.strength = strength

    def restore(self, batch: Batch, noise: Noise) -> Tensor:
        """Interpolate, and add noise."""
        sr = super().restore(batch, noise)
        return sr + self.strength * noise.normal((len(sr), 1, *sr.shape[-2:])).to(sr)
