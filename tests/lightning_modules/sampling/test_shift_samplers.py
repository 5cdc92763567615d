"""Samplers of residual shifting, in ResShift and CasArbi: any of them, with any timesteps."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from lightning_modules.backbone.shifting import ResidualShift
from lightning_modules.backbone.space import PixelSpace
from lightning_modules.methods.resshift import ResShift
from lightning_modules.noise import Noise
from tests.lightning_modules.methods import test_casarbi, test_resshift

SAMPLERS = pytest.mark.parametrize("sampler", ["posterior", "ddim", "dpm_solver_2m"])
TIMESTEPS = pytest.mark.parametrize("timesteps", [None, [14, 7, 4, 2, 1, 0], [14, 0], [14]])


def casarbi(answer=lambda b: 0.1 + 0.3 * b, **settings):
    return test_casarbi.method(answer, **settings)


def restored(model):
    given = test_casarbi.batch() if hasattr(model, "base") else test_resshift.batch()
    return model.eval().restore(given, Noise(given["seed"]))


class Half(nn.Module):
    """Predicts half of what it sees, so that what happens on the way matters."""

    def forward(self, x, t, *_):
        return 0.5 * x + 0.01 * t.view(-1, 1, 1, 1)


@SAMPLERS
@TIMESTEPS
def test_the_last_step_gives_what_the_network_predicts(sampler, timesteps):
    given = test_casarbi.batch()
    hr = given["hr"] * 2 - 1
    made = casarbi(lambda b: (hr - b) / 0.1, timesteps=timesteps, sampler=sampler)
    torch.testing.assert_close(restored(made), given["hr"], rtol=0, atol=1e-5)
    assert [got["t"][0] for got in made.network.got] == (timesteps or [*range(14, -1, -1)])
    given = test_resshift.batch()
    oracle = test_resshift.Oracle(given["hr"] * 2 - 1)
    found = restored(ResShift(4.0, oracle, PixelSpace(), timesteps=timesteps, sampler=sampler))
    torch.testing.assert_close(found, given["hr"], rtol=0, atol=1e-5)


@SAMPLERS
@pytest.mark.parametrize("domain", ["residual", "image"])
def test_relative_noise_is_absolute_noise_of_the_same_strength(sampler, domain):
    """sigma_r is 0.1; in sampling and in training."""
    relative = ResidualShift(kappa=4.0, min_noise=0.34, relative=True)
    absolute = ResidualShift(kappa=0.4, min_noise=0.034)
    made = [casarbi(process=p, domain=domain, sampler=sampler) for p in (relative, absolute)]
    losses = []
    for model in made:
        model.network = Half()
        torch.manual_seed(0)
        losses.append(model.training_step(test_casarbi.batch(), 0))
    torch.testing.assert_close(*losses)
    torch.testing.assert_close(*map(restored, made), rtol=0, atol=1e-5)
