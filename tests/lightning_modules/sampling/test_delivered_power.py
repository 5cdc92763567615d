"""How much of the residual's power residual shifting delivers, with a network that makes no error.

The residual x0 - y is white and Gaussian, so the best prediction of it is linear, and so is
sampling: the output is a sum of the normal numbers that were drawn. Their coefficients give its
variance exactly, without a sample. `docs/decisions.md` has the figures.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import Tensor

from lightning_modules.backbone.shifting import ResidualShift
from lightning_modules.sampling.solvers import ShiftSampler


class Coefficients:
    """Stands for Noise: draw n is the n-th unit vector."""

    def __init__(self, draws: int) -> None:
        self.drawn = iter(torch.eye(draws, dtype=torch.float64))

    def normal(self, shape: object) -> Tensor:
        return next(self.drawn)


def delivered(process: ResidualShift, deviation: float, solver: str | float) -> float:
    """Variance of the samples over that of the residual.

    Args:
        process: At the timesteps of sampling.
        deviation: Of the residual, in the unit of the process.
        solver: Of `ShiftSampler`.
    """

    def clean(x: Tensor, step: int) -> Tensor:
        alpha, sigma = process.level(step)
        return alpha * deviation**2 / (alpha**2 * deviation**2 + sigma**2) * x

    noise, anchor = Coefficients(process.steps + 1), torch.zeros(process.steps + 1)
    sampler = ShiftSampler(process, solver)
    x = sampler.denoise(process.prior(anchor, noise.normal(())), anchor, clean, noise)
    return (x.square().sum() / deviation**2).item()


CONFIGS = Path(__file__).parents[3] / "configs"
PAPERS = {  # file: deviation of the residual, power with the file's own sampler, with 2M
    "model/resshift.yaml": (1.17, 0.78, 1.06),
    "model/resshift_journal.yaml": (1.17, 0.34, 0.84),
    "experiment/casarbi.yaml": (0.088, 0.25, 0.64),
}
OURS = {
    "experiment/mini/resshift/pixel.yaml": (0.136, 0.94, 0.94),
    "experiment/mini/resshift/taef2.yaml": (0.8, 1.13, 1.13),
    "experiment/mini/casarbi/cascade.yaml": (1.0, 0.92, 0.92),  # in units of sigma_r
}


@functools.cache
def shipped() -> dict[str, dict[str, Any]]:
    """Arguments of ResShift and CasArbi in the configurations, by file."""
    found = {}
    for path in sorted(CONFIGS.rglob("*.yaml")):
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
        model = content.get("model", content) if isinstance(content, dict) else None
        if isinstance(model, dict) and model.get("class_path") in (
            "lightning_modules.ResShift",
            "lightning_modules.CasArbi",
        ):
            found[path.relative_to(CONFIGS).as_posix()] = model["init_args"]
    return found


def test_every_shipped_process_is_in_the_tables():
    assert shipped().keys() == PAPERS.keys() | OURS.keys()


@pytest.mark.parametrize("file", [*PAPERS, *OURS])
def test_delivered_power(file):
    """What is trained here delivers most of it; the papers' sampler is kept where it does not."""
    deviation, own, second_order = (PAPERS | OURS)[file]
    settings = shipped()[file]
    process = ResidualShift(**settings.get("process", {}).get("init_args", {}))
    if "timesteps" in settings:
        process = process.respaced(settings["timesteps"])
    assert process.relative == (deviation == 1.0)
    found = delivered(process, deviation, settings.get("sampler", "posterior"))
    assert found == pytest.approx(own, abs=0.006)
    assert delivered(process, deviation, "dpm_solver_2m") == pytest.approx(second_order, abs=0.006)
    assert file in PAPERS or found >= 0.8


@pytest.mark.parametrize(
    ("solver", "fifteen", "four"),
    [
        ("posterior", 0.78, 0.38),
        (1.0, 0.78, 0.38),
        (0.5, 0.83, 0.43),
        ("ddim", 0.84, 0.44),
        ("dpm_solver_2m", 1.06, 0.95),
    ],
)
def test_a_list_of_timesteps(solver, fifteen, four):
    process = ResidualShift()
    assert delivered(process, 1.17, solver) == pytest.approx(fifteen, abs=0.006)
    fewer = process.respaced([14, 9, 4, 0])
    assert delivered(fewer, 1.17, solver) == pytest.approx(four, abs=0.006)


def test_more_steps_deliver_all():
    """Every sampler tends to the whole power, the second order fastest."""
    fine = ResidualShift(1000, min_noise=0.01)
    for solver in ("posterior", "ddim", "dpm_solver_2m"):
        assert delivered(fine, 1.17, solver) == pytest.approx(1.0, abs=0.03)
