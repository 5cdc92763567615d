"""How much of the residual's power residual shifting delivers, with a network that makes no error.

The residual x0 - y is white and Gaussian, so the best prediction of it is linear, and so is
sampling: the output is a sum of the normal numbers that were drawn. Their coefficients give its
variance exactly, without a sample. `docs/decisions.md` has the figures, but for those of four of 15
steps and of the deviation 0.2.
"""

from __future__ import annotations

import pytest
import torch

from lightning_modules.backbone.shifting import ResidualShift
from lightning_modules.sampling.solvers import ShiftSampler


class Coefficients:
    """Stands for Noise: draw n is the n-th unit vector."""

    def __init__(self, draws):
        self.vectors = iter(torch.eye(draws, dtype=torch.float64))

    def normal(self, shape):
        return next(self.vectors)


def delivered(process, deviation, solver):
    """Variance of the samples over that of the residual, which has this deviation."""

    def predict(x, step):
        alpha, sigma = process.level(step)
        return alpha * deviation**2 / (alpha**2 * deviation**2 + sigma**2) * x

    draws = process.steps + 1
    noise = Coefficients(draws)
    anchor = torch.zeros(draws)
    prior = process.prior(anchor, noise.normal(()))
    x = ShiftSampler(process, solver).denoise(prior, anchor, predict, noise)
    return (x.square().sum() / deviation**2).item()


RELATIVE = ResidualShift(kappa=4.0, min_noise=0.34, relative=True)


@pytest.mark.parametrize(
    ("process", "deviation", "posterior", "ddim", "dpm_solver_2m"),
    [
        (ResidualShift().respaced([14, 9, 4, 0]), 1.17, 0.38, 0.44, 0.95),
        (ResidualShift(), 1.17, 0.78, 0.84, 1.06),
        (ResidualShift(4, min_noise=0.2), 1.17, 0.34, 0.44, 0.84),
        (ResidualShift(), 0.05, 0.27, 0.36, 0.46),
        (ResidualShift(), 0.2, 0.40, 0.55, 1.06),
        (RELATIVE, 1.0, 0.50, 0.65, 0.92),
        (ResidualShift(kappa=1.0), 0.136, 0.41, 0.57, 0.94),
    ],
)
def test_each_solver_delivers_the_share_in_the_decisions(
    process, deviation, posterior, ddim, dpm_solver_2m
):
    expected = {"posterior": posterior, "ddim": ddim, "dpm_solver_2m": dpm_solver_2m}
    for solver, share in expected.items():
        assert delivered(process, deviation, solver) == pytest.approx(share, abs=0.006)  # rounded
