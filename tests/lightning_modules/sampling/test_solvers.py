"""Solvers: orders of convergence on a Gaussian, exact chains, equality with diffusers."""

from __future__ import annotations

import itertools
import math

import diffusers
import pytest
import torch

from lightning_modules.backbone.schedule import CLEAN, Level, Schedule, spaced
from lightning_modules.sampling import solvers

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
        if solver == "heun":
            x = solvers.heun(x, x0, now, then, lambda y, at=then: exact_x0(y, at))
        elif solver == "dpm_solver_2m":
            x = solvers.dpm_solver_2m(x, x0, now, then, earlier)
            earlier = x0, now
        else:
            x = getattr(solvers, solver)(x, x0, now, then)
    return x


@pytest.mark.parametrize("kind", ["preserving", "exploding"])
@pytest.mark.parametrize(
    ("solver", "order"), [("ddim", 1), ("euler", 1), ("heun", 2), ("dpm_solver_2m", 2)]
)
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


@pytest.mark.parametrize("solver", ["ancestral", "ddim of eta 1"])
def test_noise_that_is_added_keeps_the_variance(solver):
    """Mean and variance along a chain with the exact denoiser, in closed form."""
    one, nothing = torch.ones(1, dtype=torch.float64), torch.zeros(1, dtype=torch.float64)

    def step(x, noise, now, then):
        x0 = exact_x0(x, now)
        if solver == "ancestral":
            return solvers.euler_ancestral(x, x0, now, then, noise)
        return solvers.ddim(x, x0, now, then, 1.0, noise)

    path = levels(4000, "preserving")
    mean, variance = path[0].alpha * MEAN * one, deviation_at(path[0]) ** 2
    for now, then in itertools.pairwise(path):
        base = step(nothing, nothing, now, then)
        gain = (step(one, nothing, now, then) - base).item()
        added = (step(nothing, one, now, then) - base).item()
        mean, variance = step(mean, nothing, now, then), gain**2 * variance + added**2
    assert mean.item() == pytest.approx(path[-1].alpha * MEAN, abs=1e-9)
    assert variance == pytest.approx(deviation_at(path[-1]) ** 2, rel=2e-3)


@pytest.mark.parametrize("solver", ["ddim", "euler", "heun", "dpm_solver_2m"])
def test_all_end_with_x0(solver):
    x0, x = torch.randn(2, 1, 2, 3, 3).unbind(0)
    now = Schedule().level(300)
    more = {"predict": None} if solver == "heun" else {}
    torch.testing.assert_close(getattr(solvers, solver)(x, x0, now, CLEAN, **more), x0)
    noise = torch.randn_like(x)
    torch.testing.assert_close(solvers.euler_ancestral(x, x0, now, CLEAN, noise), x0)
    torch.testing.assert_close(solvers.residual_shift(x, x0, 0.5, 0.0, 2.0), x0)


def test_noise_that_is_wanted():
    x = torch.zeros(1, 1, 2, 2)
    now, then = Schedule().level(300), Schedule().level(200)
    with pytest.raises(ValueError, match="pass `noise`"):
        solvers.ddim(x, x, now, then, eta=1.0)
    with pytest.raises(ValueError, match="pass `noise`"):
        solvers.residual_shift(x, x, 0.5, 0.2, 2.0)


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


def ours(solver, x, timesteps, variance):
    schedule = Schedule(variance=variance)
    if variance == "exploding":
        x = x * schedule.level(timesteps[0]).sigma
    earlier = None
    for t, following in zip(timesteps, [*timesteps[1:], -1], strict=True):
        now, then = schedule.level(t), schedule.level(following)

        def predict(y, t=t):
            which = torch.tensor([t])
            return schedule.to_x0(network(schedule.scale_input(y, which), float(t)), y, which)

        x0 = predict(x)
        if solver == "heun":
            x = solvers.heun(x, x0, now, then, lambda y, t=following: predict(y, t))
        elif solver == "dpm_solver_2m":
            x = solvers.dpm_solver_2m(x, x0, now, then, earlier)
            earlier = x0, now
        else:
            x = getattr(solvers, solver)(x, x0, now, then)
    return x


@pytest.mark.parametrize(
    ("solver", "scheduler", "options", "variance"),
    [
        ("ddim", "DDIMScheduler", {"clip_sample": False, "set_alpha_to_one": True}, "preserving"),
        ("euler", "EulerDiscreteScheduler", {"timestep_spacing": "trailing"}, "exploding"),
        ("heun", "HeunDiscreteScheduler", {"timestep_spacing": "trailing"}, "exploding"),
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
    spacing = options.get("timestep_spacing", "leading")
    expected = theirs(made, x, 20)
    found = ours(solver, x, spaced(1000, 20, spacing), variance)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


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
        found = solvers.euler_ancestral(x, x0, now, then, noise)
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
