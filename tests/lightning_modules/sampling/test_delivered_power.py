"""How much of the residual's power residual shifting delivers, with a network that makes no error.

The residual x0 - y is white and Gaussian, so the best prediction of it is linear, and so is
sampling: the output is a sum of the normal numbers that were drawn. Their coefficients give its
variance exactly, without a sample. `docs/decisions.md` has the figures.
"""

from __future__ import annotations

import re

import pytest
import torch
import yaml

from lightning_modules.backbone.shifting import ResidualShift
from lightning_modules.sampling.solvers import ShiftSampler
from tests.conftest import REPO


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
def test_figures_of_the_page(process, deviation, posterior, ddim, dpm_solver_2m):
    assert delivered(process, deviation, "posterior") == pytest.approx(posterior, abs=0.006)
    assert delivered(process, deviation, "ddim") == pytest.approx(ddim, abs=0.006)
    assert delivered(process, deviation, "dpm_solver_2m") == pytest.approx(dpm_solver_2m, abs=0.006)


def shipped():
    """Files of methods of residual shifting, with their models."""
    models = {}
    for folder in ("model", "experiment"):
        for path in (REPO / "configs" / folder).rglob("*.yaml"):
            content = yaml.safe_load(path.read_text())
            model = content.get("model", content)
            if not isinstance(model, dict):
                continue
            if model.get("class_path") in (
                "lightning_modules.ResShift",
                "lightning_modules.CasArbi",
            ):
                models[path] = model["init_args"]
    return models


@pytest.mark.parametrize(
    ("path", "model"), [pytest.param(*x, id=x[0].stem) for x in shipped().items()]
)
def test_files_say_what_their_sampler_delivers(path, model):
    """In a comment: each share with its deviation; after a semicolon that of another sampler."""
    process = ResidualShift(**model.get("process", {}).get("init_args", {}))
    solver = model.get("sampler") or model["sampling"]["solver"]
    comment = re.search(r"((?: *# .*\n)+) *(?:sampler|sampling):", path.read_text())[1]
    shares = 0
    for part in comment.split(";"):
        named = "dpm_solver_2m" if "dpm_solver_2m" in part else solver
        pattern = r"(\d\.\d\d)\b.*? at (?:a deviation of )?([\d.]*\d)"
        for share, deviation in re.findall(pattern, part):
            expected = delivered(process, float(deviation), named)
            assert float(share) == pytest.approx(expected, abs=0.006)
            shares += 1
    assert shares
