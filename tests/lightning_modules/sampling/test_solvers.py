"""Solvers: orders of convergence, exact chains, equality with diffusers, lists of timesteps."""

from __future__ import annotations

import itertools
import math

import diffusers
import pytest
import torch

from lightning_modules.backbone.schedule import Level, Schedule
from lightning_modules.noise import Noise
from lightning_modules.sampling import solvers
from lightning_modules.sampling.solvers import Sampler
from tests.make import assert_near, normal

# ----------------------------------------------------------------------- a Gaussian, solved exactly

MEAN = 0.7
DEVIATION = 0.4
FROM_MEAN = 1.3  # deviations; where a sample of the exact flow is at every level


def exact_x0(x, level):
    """E[x0 | x] of the Gaussian: its exact denoiser."""
    gain = level.alpha * DEVIATION**2 / (level.alpha**2 * DEVIATION**2 + level.sigma**2)
    return MEAN + gain * (x - level.alpha * MEAN)


def quantile(level):
    """The sample of the exact flow at a level."""
    deviation = math.hypot(level.alpha * DEVIATION, level.sigma)
    return level.alpha * MEAN + FROM_MEAN * deviation


def levels(steps, kind):
    """Evenly in log(sigma / alpha), from 3, nearly noise, to -2."""
    path = []
    for i in range(steps + 1):
        ratio = math.exp(3 - 5 * i / steps)  # sigma / alpha
        alpha = 1.0 if kind == "exploding" else 1 / math.hypot(1, ratio)
        path.append(Level(alpha, alpha * ratio))
    return path


def error_of(solver, steps, kind):
    path = levels(steps, kind)
    x = torch.tensor([quantile(path[0])], dtype=torch.float64)
    earlier = None
    for start, end in itertools.pairwise(path):
        x0 = exact_x0(x, start)
        x = solvers.SOLVERS[solver](x, x0, start, end, earlier)
        earlier = x0, start
    return abs(x.item() - quantile(path[-1]))


@pytest.mark.parametrize("kind", ["preserving", "exploding"])
@pytest.mark.parametrize(("solver", "order"), [("ddim", 1), ("dpm_solver_2m", 2)])
def test_solvers_converge_by_their_order(solver, order, kind):
    """Twice the steps divide the error by 2 ** order."""
    of_80 = error_of(solver, steps=80, kind=kind)
    of_160 = error_of(solver, steps=160, kind=kind)
    assert of_80 > 1e-9  # not rounding alone
    assert math.log2(of_80 / of_160) == pytest.approx(order, abs=0.15)


# ---------------------------------------------------------------------------------------- diffusers

CONFIG = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}


def network(x, t):
    """Something like a prediction of noise, smooth in both."""
    return torch.tanh(x + 0.1 * t / 1000) * 0.9


def sampled_by_diffusers(scheduler, x):
    scheduler.set_timesteps(20)
    x = x * scheduler.init_noise_sigma
    for t in scheduler.timesteps:
        raw = network(scheduler.scale_model_input(x, t), float(t))
        x = scheduler.step(raw, t, x).prev_sample
    return x


DDIM = diffusers.DDIMScheduler(**CONFIG, clip_sample=False, set_alpha_to_one=True)
EULER = diffusers.EulerDiscreteScheduler(**CONFIG, timestep_spacing="trailing")
DPM = diffusers.DPMSolverMultistepScheduler(
    **CONFIG, timestep_spacing="trailing", final_sigmas_type="zero"
)


@pytest.mark.parametrize(
    ("sampler", "scheduler", "variance"),
    [
        (Sampler(20, "leading", offset=0), DDIM, "preserving"),
        (Sampler(20, "trailing"), EULER, "exploding"),
        (Sampler(20, "trailing", solver="dpm_solver_2m"), DPM, "preserving"),
    ],
    ids=["DDIM", "Euler, which is DDIM if the variance explodes", "DPM-Solver++(2M)"],
)
def test_sampling_is_that_of_diffusers(sampler, scheduler, variance):
    """20 steps from pure noise to no noise at all, spaced as by the scheduler."""
    schedule = Schedule(variance=variance)
    steps = sampler.timesteps(1000)
    x = normal(2, 3, 8, 8)
    start = x * schedule.level(steps[0]).sigma if variance == "exploding" else x

    def clean(z, t):
        t = torch.full((2,), t)
        return schedule.to_x0(network(schedule.scale_input(z, t), float(t[0])), z, t)

    z = sampler.denoise(start, steps, clean, schedule, Noise(torch.arange(2)))

    torch.testing.assert_close(z, sampled_by_diffusers(scheduler, x), rtol=1e-4, atol=1e-4)


# The first and the eleventh of 20 steps, of 50 timesteps each.
@pytest.mark.parametrize(("number", "t", "next_t"), [(0, 999, 949), (10, 499, 449)])
def test_ancestral_steps_are_those_of_diffusers(number, t, next_t):
    scheduler = diffusers.EulerAncestralDiscreteScheduler(**CONFIG, timestep_spacing="trailing")
    scheduler.set_timesteps(20)
    schedule = Schedule(variance="exploding")
    start = schedule.level(t)
    x = 5 * normal(1, 3, 8, 8)
    raw = normal(1, 3, 8, 8, seed=1)
    noise = normal(1, 3, 8, 8, seed=2)

    x0 = x - start.sigma * raw
    z = solvers.ddim(x, x0, start, schedule.level(next_t), eta=1.0, noise=noise)

    generator = torch.Generator().manual_seed(2)
    theirs = scheduler.step(raw, scheduler.timesteps[number], x, generator=generator)
    torch.testing.assert_close(z, theirs.prev_sample, rtol=1e-4, atol=1e-4)


# ------------------------------------------------------------------------- down a list of timesteps

X0 = torch.linspace(-1, 1, 12).view(1, 3, 2, 2)


@pytest.mark.parametrize(
    ("sampler", "draws_noise"),
    [
        pytest.param(Sampler(steps=5), False, id="DDIM"),
        pytest.param(Sampler(steps=5, eta=1.0), True, id="ancestral"),
        pytest.param(Sampler(steps=5, solver="dpm_solver_2m"), False, id="DPM-Solver++(2M)"),
        pytest.param(Sampler(steps=5, clamp=0.5), False, id="clamped"),
    ],
)
@pytest.mark.parametrize("variance", ["preserving", "exploding"])
def test_sampling_ends_at_the_x0_that_a_network_predicts(sampler, draws_noise, variance):
    """Clamped to `clamp`, if it is set; predictions are from -1 to 1."""
    called = []

    def clean(z, t):
        called.append(t)
        return X0

    noise = Noise(torch.tensor([3]))
    steps = sampler.timesteps(1000)
    z = sampler.denoise(normal(*X0.shape), steps, clean, Schedule(variance=variance), noise)

    limit = sampler.clamp or 1
    assert_near(z, X0.clamp(-limit, limit), 1e-5)
    assert steps == [801, 601, 401, 201, 1]  # 1000 / 5 apart, plus 1 as in Stable Diffusion
    assert called == steps
    assert noise.drew == draws_noise


def test_the_default_sampler_has_50_steps_of_20_timesteps_plus_1_as_in_stable_diffusion():
    assert Sampler().timesteps(1000) == list(range(981, 0, -20))


def test_sampling_may_end_at_timestep_0_with_the_noise_that_is_left_there():
    """As Stable Diffusion's own sampler, which does not go on to the clean image."""
    schedule = Schedule()
    sampler = Sampler(steps=3, last=0)
    steps = sampler.timesteps(1000)
    start = normal(*X0.shape)

    z = sampler.denoise(start, steps, lambda z, t: X0, schedule, Noise(torch.tensor([3])))

    first = schedule.level(steps[0])
    last = schedule.level(0)
    eps = (start - first.alpha * X0) / first.sigma  # the same on the whole deterministic path
    assert_near(z, last.alpha * X0 + last.sigma * eps, 1e-5)
