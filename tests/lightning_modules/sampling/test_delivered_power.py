"""How much of the residual's power residual shifting delivers, with a network that makes no error.

The residual x0 - y is white and Gaussian, so the best prediction of it is linear, and so is
sampling: the output is a sum of the normal numbers that were drawn. Their coefficients give its
variance exactly, without a sample. `docs/decisions.md` has the figures.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
import yaml
from torch import Tensor

from lightning_modules.backbone.shifting import ResidualShift
from lightning_modules.sampling.solvers import ShiftSampler
from tests.conftest import REPO


class Coefficients:
    """Stands for Noise: draw n is the n-th unit vector."""

    def __init__(self, draws: int) -> None:
        self.drawn = iter(torch.eye(draws, dtype=torch.float64))

    def normal(self, shape: object) -> Tensor:
        return next(self.drawn)


def delivered(process: ResidualShift, deviation: float, solver: str) -> float:
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


RELATIVE = ResidualShift(kappa=4.0, min_noise=0.34, relative=True)


@pytest.mark.parametrize(
    ("process", "deviation", "powers"),
    [
        (ResidualShift().respaced([14, 9, 4, 0]), 1.17, (0.38, 0.44, 0.95)),
        (ResidualShift(), 1.17, (0.78, 0.84, 1.06)),
        (ResidualShift(4, min_noise=0.2), 1.17, (0.34, 0.44, 0.84)),
        (ResidualShift(), 0.05, (0.27, 0.36, 0.46)),
        (ResidualShift(), 0.2, (0.40, 0.55, 1.06)),
        (RELATIVE, 1.0, (0.50, 0.65, 0.92)),
        (ResidualShift(kappa=1.0), 0.136, (0.41, 0.57, 0.94)),
    ],
)
def test_figures_of_the_page(process, deviation, powers):
    """By the posterior step, DDIM and 2M."""
    found = [delivered(process, deviation, s) for s in ("posterior", "ddim", "dpm_solver_2m")]
    assert found == pytest.approx(powers, abs=0.006)


SHIFTING = ("lightning_modules.ResShift", "lightning_modules.CasArbi")
FILES = [*(REPO / "configs/model").glob("*.yaml"), *(REPO / "configs/experiment").rglob("*.yaml")]


def shipped() -> list[Path]:
    """Files of methods of residual shifting, with their sampler."""
    found = []
    for path in FILES:
        content = yaml.safe_load(path.read_text())
        model = content.get("model", content)
        if isinstance(model, dict) and model.get("class_path") in SHIFTING:
            found.append(path)
    return found


@pytest.mark.parametrize("path", shipped(), ids=lambda path: path.stem)
def test_files_say_what_their_sampler_delivers(path):
    """Beside it, each share with its deviation; after a semicolon that of another sampler."""
    text = path.read_text()
    content = yaml.safe_load(text)
    model = content.get("model", content)["init_args"]
    process = ResidualShift(**model.get("process", {}).get("init_args", {}))
    own = model.get("sampler") or model["sampling"]["solver"]
    comments = re.search(r"((?: *# .*\n)+) *(?:sampler|sampling):", text)
    assert comments
    said = 0
    for part in comments[1].split(";"):
        solver = "dpm_solver_2m" if "dpm_solver_2m" in part else own
        for share, deviation in re.findall(
            r"(\d\.\d\d)\b.*? at (?:a deviation of )?([\d.]*\d)", part
        ):
            assert delivered(process, float(deviation), solver) == pytest.approx(
                float(share), abs=0.006
            )
            said += 1
    assert said
