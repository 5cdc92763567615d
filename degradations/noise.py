"""Noise that a sensor or an amplifier adds."""

from __future__ import annotations

import torch
from torch import Tensor

from degradations.base import Stage, check_range
from degradations.draws import Draws
from degradations.fields import seeded_randn_like
from degradations.params import Params, per_image


class GaussianNoise(Stage):
    """Add white noise, one level an image.

    Args:
        sigma: Range of the standard deviation in 8-bit levels.

    Source: Real-ESRGAN (Wang et al., 2021; arXiv 2107.10833), range of its released x4 options.
    """

    def __init__(self, sigma: tuple[float, float] = (1.0, 30.0)) -> None:
        super().__init__()
        self.sigma = check_range(sigma, "sigma", low=0.0)

    def draw(self, draws: Draws, shape: torch.Size) -> Params:
        """`levels` in 8-bit levels and `field_seeds`, (B,) each."""
        return {"levels": draws.uniform(*self.sigma), "field_seeds": draws.seeds()}

    def forward(self, x: Tensor, params: Params) -> Tensor:
        """Add each image's field, (B, C, H, W); the sum is not clamped."""
        field = seeded_randn_like(x, params["field_seeds"])
        return x + field * per_image(params["levels"] / 255, x)
