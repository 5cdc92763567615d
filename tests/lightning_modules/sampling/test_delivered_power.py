"""How much of the residual's power residual shifting delivers, with a network that makes no error.

The residual x0 - y is white and Gaussian, so the best prediction of it is linear, and so is sampling:
the output is a sum of the normal numbers that were drawn. Their coefficients give its variance
exactly, without a sample. `docs/decisions.md` has the figures.
"""

from __future__ import annotations

import torch
from torch import Tensor

from lightning_modules.backbone.shifting import ResidualShift
from lightning_modules.sampling.solvers import ShiftSampler


class Coefficients:
    """Stands for Noise: draw n is the n-th unit vector."""

    def __init__(self, draws: int) -> None:
        self.drawn = iter(torch.eye(draws, dtype=torch.float64))

    def normal(self, shape: object) -> Tensor:
        return next(self.drawn)


def delivered(process: ResidualShift, deviation: float, solver: str, fresh: float = 0.0) -> float:
    """Variance of the samples over that of the residual.

    Args:
        process: At the timesteps of sampling.
        deviation: Of the residual, in the unit of the process.
        solver: Of `ShiftSampler`.
        fresh: Its share of fresh noise.
    """

    def clean(x: Tensor, step: int) -> Tensor:
        alpha, sigma = process.level(step)
        return alpha * deviation**2 / (alpha**2 * deviation**2 + sigma**2) * x

    noise, anchor = Coefficients(process.steps + 1), torch.zeros(process.steps + 1)
    sampler = ShiftSampler(process, solver, fresh)
    x = sampler.denoise(process.prior(anchor, noise.normal(())), anchor, clean, noise)
    return (x.square().sum() / deviation**2).item()
