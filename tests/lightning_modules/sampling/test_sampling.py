"""Sampling: each solver down a list of timesteps."""

from __future__ import annotations

import pytest
import torch

from lightning_modules.backbone.schedule import Schedule
from lightning_modules.noise import Noise
from lightning_modules.sampling.solvers import Sampler

SOLVERS = ["ddim", "euler", "euler_ancestral", "heun", "dpm_solver_2m"]
CLEAN = torch.linspace(-1, 1, 12).view(1, 3, 2, 2)


def start():
    return Noise(torch.tensor([3])).normal(CLEAN.shape)


@pytest.mark.parametrize("variance", ["preserving", "exploding"])
@pytest.mark.parametrize("solver", SOLVERS)
def test_an_oracle_is_believed(solver, variance):
    got = []

    def clean(z, t):
        got.append(t)
        return CLEAN

    sampler, schedule = Sampler(5, solver=solver), Schedule(variance=variance)
    steps = sampler.timesteps(1000)
    assert steps == [801, 601, 401, 201, 1]
    noise = Noise(torch.tensor([3]))
    found = sampler.denoise(start(), steps, clean, schedule, noise)
    torch.testing.assert_close(found, CLEAN, rtol=0, atol=1e-5)
    twice = [801, 601, 601, 401, 401, 201, 201, 1, 1]
    assert got == (twice if solver == "heun" else steps)
    assert noise.drew == (solver == "euler_ancestral")


@pytest.mark.parametrize("solver", SOLVERS)
def test_a_part_of_the_timesteps_from_their_level(solver):
    """The exact denoiser of normal data: from any timestep on its deviation is kept."""
    deviation, schedule = 0.5, Schedule()

    def clean(z, t):
        alpha, sigma = schedule.level(t)
        return alpha * deviation**2 / (alpha**2 * deviation**2 + sigma**2) * z

    sampler = Sampler(250, solver=solver)
    steps = [t for t in sampler.timesteps(1000) if t < 700]
    alpha, sigma = schedule.level(steps[0])
    noise = Noise(torch.arange(2))
    z = (alpha**2 * deviation**2 + sigma**2) ** 0.5 * noise.normal((2, 3, 64, 64))
    found = sampler.denoise(z, steps, clean, schedule, noise)
    assert abs(found.std() - deviation) < 0.02


def test_ddim_draws_where_it_is_asked_to():
    for eta, drew in ((0.0, False), (1.0, True)):
        noise = Noise(torch.tensor([3]))
        sampler = Sampler(3, eta=eta)
        sampler.denoise(start(), sampler.timesteps(1000), lambda z, t: CLEAN, Schedule(), noise)
        assert noise.drew == drew


def test_it_ends_where_stable_diffusion_does():
    """At abar of timestep 0, with the noise that is left there."""
    schedule, sampler = Schedule(), Sampler(3, last=0)
    steps = sampler.timesteps(1000)
    found = sampler.denoise(start(), steps, lambda z, t: CLEAN, schedule, Noise(torch.tensor([3])))
    eps, (alpha, sigma) = start(), schedule.level(steps[0])
    eps = (eps - alpha * CLEAN) / sigma  # of a deterministic path with one clean sample
    alpha, sigma = schedule.level(0)
    torch.testing.assert_close(found, alpha * CLEAN + sigma * eps, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"solver": "unipc"}, "solver is 'unipc'; expected ddim, euler, "),
        ({"eta": 1.5}, r"eta is 1\.5 with ddim; expected 0 to 1"),
        ({"eta": 1.0, "solver": "euler"}, r"eta is 1\.0 with euler; expected .* 0 for solvers"),
        ({"last": 1}, "last is 1; expected -1 or 0"),
        ({"steps": 0}, "0 sampling steps were requested"),
        ({"last": 0, "spacing": "linspace"}, "last is 0, and the last of the timesteps is 0"),
    ],
)
def test_settings_that_cannot_be(settings, message):
    with pytest.raises(ValueError, match=message):
        Sampler(**settings).timesteps(1000)
