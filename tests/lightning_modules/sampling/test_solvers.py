"""Solvers: orders of convergence, exact chains, equality with diffusers, lists of timesteps."""

from __future__ import annotations

import itertools
import math
from typing import get_args

import diffusers
import pytest
import torch

from lightning_modules.backbone.schedule import Level, Schedule
from lightning_modules.noise import Noise
from lightning_modules.sampling import solvers
from lightning_modules.sampling.solvers import Sampler

MEAN, DEVIATION = 0.7, 0.4  # of the Gaussian that the process starts from


def exact_x0(x, level):
    """E[x0 | x] of the Gaussian: its exact denoiser."""
    gain = level.alpha * DEVIATION**2 / (level.alpha**2 * DEVIATION**2 + level.sigma**2)
    return MEAN + gain * (x - level.alpha * MEAN)


def deviation_at(level):
    return math.hypot(level.alpha * DEVIATION, level.sigma)


def levels(count, kind):
    """Evenly in log(alpha / sigma), from nearly noise to little of it."""
    found = []
    for i in range(count + 1):
        ratio = math.exp(3 - 5 * i / count)  # sigma / alpha
        alpha = 1.0 if kind == "exploding" else 1 / math.hypot(1, ratio)
        found.append(Level(alpha, alpha * ratio))
    return found


def run(solver, path, x):
    earlier = None
    for now, then in itertools.pairwise(path):
        x0 = exact_x0(x, now)
        x = solvers.SOLVERS[solver](x, x0, now, then, earlier)
        earlier = x0, now
    return x


@pytest.mark.parametrize("kind", ["preserving", "exploding"])
@pytest.mark.parametrize(("solver", "order"), [("ddim", 1), ("dpm_solver_2m", 2)])
def test_order_of_convergence(solver, order, kind):
    """The flow keeps (x - alpha mean) / deviation; the error falls by 2 ** order."""
    errors = []
    for count in (80, 160):
        path = levels(count, kind)
        x = path[0].alpha * MEAN + deviation_at(path[0]) * torch.tensor([1.3], dtype=torch.float64)
        end = path[-1]
        wanted = end.alpha * MEAN + deviation_at(end) * 1.3
        errors.append(abs(run(solver, path, x).item() - wanted))
    assert errors[0] > 1e-9
    assert math.log2(errors[0] / errors[1]) == pytest.approx(order, abs=0.15)


# ---------------------------------------------------------------------------------------- diffusers

CONFIG = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}


def network(x, t):
    """Something like a prediction of noise, smooth in both."""
    return torch.tanh(x + 0.1 * t / 1000) * 0.9


def theirs(scheduler, x, count):
    scheduler.set_timesteps(count)
    x = x * scheduler.init_noise_sigma
    for t in scheduler.timesteps:
        raw = network(scheduler.scale_model_input(x, t), float(t))
        x = scheduler.step(raw, t, x).prev_sample
    return x


@pytest.mark.parametrize(
    ("solver", "scheduler", "options", "variance"),
    [
        ("ddim", "DDIMScheduler", {"clip_sample": False, "set_alpha_to_one": True}, "preserving"),
        ("ddim", "EulerDiscreteScheduler", {"timestep_spacing": "trailing"}, "exploding"),
        (
            "dpm_solver_2m",
            "DPMSolverMultistepScheduler",
            {"timestep_spacing": "trailing", "final_sigmas_type": "zero"},
            "preserving",
        ),
    ],
)
def test_equal_to_diffusers(solver, scheduler, options, variance):
    x = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    made = getattr(diffusers, scheduler)(**CONFIG, **options)
    schedule = Schedule(variance=variance)
    sampler = Sampler(20, options.get("timestep_spacing", "leading"), 0, solver)
    steps = sampler.timesteps(1000)

    def clean(z, t):
        which = torch.full((2,), t)
        return schedule.to_x0(network(schedule.scale_input(z, which), float(t)), z, which)

    scale = schedule.level(steps[0]).sigma if variance == "exploding" else 1
    found = sampler.denoise(scale * x, steps, clean, schedule, Noise(torch.arange(2)))
    torch.testing.assert_close(found, theirs(made, x, 20), rtol=1e-4, atol=1e-4)


def test_ancestral_steps_are_those_of_diffusers():
    made = diffusers.EulerAncestralDiscreteScheduler(**CONFIG, timestep_spacing="trailing")
    made.set_timesteps(20)
    schedule = Schedule(variance="exploding")
    x = torch.randn(1, 3, 8, 8, generator=torch.Generator().manual_seed(0)) * 5
    for i, (t, following) in {0: (999, 949), 10: (499, 449)}.items():
        raw = torch.randn(x.shape, generator=torch.Generator().manual_seed(1))
        expected = made.step(
            raw, made.timesteps[i], x, generator=torch.Generator().manual_seed(2)
        ).prev_sample
        noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(2))
        made._step_index = None
        now, then = schedule.level(t), schedule.level(following)
        x0 = x - now.sigma * raw
        found = solvers.ddim(x, x0, now, then, eta=1.0, noise=noise)
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


# ------------------------------------------------------------------------- down a list of timesteps

X0 = torch.linspace(-1, 1, 12).view(1, 3, 2, 2)


def start():
    return Noise(torch.tensor([3])).normal(X0.shape)


@pytest.mark.parametrize("variance", ["preserving", "exploding"])
@pytest.mark.parametrize("solver", get_args(solvers.Solver))
def test_an_oracle_is_believed(solver, variance):
    got = []

    def clean(z, t):
        got.append(t)
        return X0

    sampler, schedule = Sampler(5, solver=solver), Schedule(variance=variance)
    steps = sampler.timesteps(1000)
    assert steps == [801, 601, 401, 201, 1]
    noise = Noise(torch.tensor([3]))
    found = sampler.denoise(start(), steps, clean, schedule, noise)
    torch.testing.assert_close(found, X0, rtol=0, atol=1e-5)
    assert got == steps
    assert not noise.drew


def test_ddim_draws_where_it_is_asked_to():
    for eta, drew in ((0.0, False), (1.0, True)):
        noise = Noise(torch.tensor([3]))
        sampler = Sampler(3, eta=eta)
        sampler.denoise(start(), sampler.timesteps(1000), lambda z, t: X0, Schedule(), noise)
        assert noise.drew == drew


def test_it_ends_where_stable_diffusion_does():
    """At abar of timestep 0, with the noise that is left there."""
    schedule, sampler = Schedule(), Sampler(3, last=0)
    steps = sampler.timesteps(1000)
    found = sampler.denoise(start(), steps, lambda z, t: X0, schedule, Noise(torch.tensor([3])))
    eps, (alpha, sigma) = start(), schedule.level(steps[0])
    eps = (eps - alpha * X0) / sigma  # of a deterministic path with one clean sample
    alpha, sigma = schedule.level(0)
    torch.testing.assert_close(found, alpha * X0 + sigma * eps, rtol=0, atol=1e-5)
