"""Diffusion: the loss, its weights, sampling, guidance."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.testing import assert_close

from lightning_modules import Denoiser, Diffusion, Schedule
from lightning_modules.methods.diffusion import TRAILING, min_snr_weights
from lightning_modules.noise import Noise
from tests import make
from tests.lightning_modules.backbone.texts import Words
from tests.make import assert_near

GAMMA = 5.0  # of min-SNR weights
PREDICTIONS = pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])


def answers(x_t, x0, alpha, sigma):
    """What a network that takes x0 for the clean sample returns, by its kind of prediction."""
    norm = (alpha**2 + sigma**2) ** 0.5  # 1 if the variance is preserved
    eps = (x_t - alpha * x0) / sigma
    return {"sample": x0, "epsilon": eps, "v_prediction": (alpha * eps - sigma * x0) / norm}


class Oracle(Denoiser):
    """Knows the clean sample x0 and the schedule, and notes its inputs and timesteps."""

    channels = 3

    def __init__(self, x0, schedule):
        super().__init__()
        self.x0 = x0
        self.schedule = schedule
        self.weight = nn.Parameter(torch.zeros(()))
        self.inputs = []
        self.timesteps = []

    def forward(self, z_t, t, condition=None, residuals=None):
        self.inputs.append(z_t)
        self.timesteps.append(t)
        levels = torch.tensor([self.schedule.level(int(step)) for step in t])
        alpha, sigma = levels.view(-1, 2, 1, 1, 1).unbind(1)
        x_t = z_t * (alpha**2 + sigma**2).sqrt()  # networks see x_t scaled to variance 1
        return answers(x_t, self.x0, alpha, sigma)[self.schedule.prediction] + 0 * self.weight


def images(count=4, side=8):
    return make.batch(count, (side, side), hr=(3, side, side))


def method(hr, schedule=None, scale=1.0, **settings):
    """A method whose network knows HR."""
    schedule = schedule or Schedule()
    denoiser = Oracle(hr * 2 - 1, schedule)
    return make.quiet(Diffusion(scale, denoiser, schedule=schedule, **settings))


# -------------------------------------------------------------------------------------- training


@PREDICTIONS
def test_the_loss_is_zero_for_a_network_that_knows_the_clean_sample(prediction):
    batch = images()
    model = method(batch["hr"], Schedule(prediction=prediction))
    assert model.training_step(batch, 0) < 1e-6

    model.denoiser.x0 = model.denoiser.x0 + 0.1
    assert model.training_step(batch, 0) > 1e-4


@pytest.mark.parametrize(
    ("timesteps", "first", "last"), [(None, 0, 999), ((0, 1), 0, 0), ((100, 300), 100, 299)]
)
def test_training_draws_timesteps_from_the_whole_range_that_is_set(timesteps, first, last):
    batch = images(count=2000, side=1)
    model = method(batch["hr"], timesteps=timesteps)

    model.training_step(batch, 0)

    (drawn,) = model.denoiser.timesteps
    near = 0.01 * (last - first)  # 2000 draws come nearer than this to both ends
    assert first <= drawn.min() <= first + near
    assert last - near <= drawn.max() <= last


@PREDICTIONS
@pytest.mark.parametrize("t", [0, 999])
def test_min_snr_weighs_an_error_of_x0_alike_for_all_predictions(prediction, t):
    """By min(SNR, gamma), where SNR = (alpha / sigma)^2 is 10^4 at t = 0, and 4 · 10^-5 at 999."""
    schedule = Schedule(prediction=prediction, beta_start=0.0001, beta_end=0.02, betas="linear")
    x, wrong, eps = make.normal(3, 1, 1, 1, 4).double()
    alpha, sigma = schedule.level(t)
    x_t = alpha * x + sigma * eps
    target = schedule.target(x, eps, torch.tensor([t]))
    error = (answers(x_t, wrong, alpha, sigma)[prediction] - target).square().mean()

    weight = min_snr_weights(schedule, GAMMA)[t].double()

    expected = min((alpha / sigma) ** 2, GAMMA) * (wrong - x).square().mean()
    assert_close(weight * error, expected, rtol=1e-5, atol=0)


def test_the_loss_has_the_weight_of_min_snr():
    """min(SNR, gamma) if the network predicts x0; at timestep 10, the only one here, gamma."""
    batch = images()
    schedule = Schedule(prediction="sample")
    model = method(batch["hr"], schedule, timesteps=(10, 11), min_snr=GAMMA)
    error = 0.1
    model.denoiser.x0 = model.denoiser.x0 + error

    alpha, sigma = schedule.level(10)
    assert (alpha / sigma) ** 2 > GAMMA
    assert_close(model.training_step(batch, 0), torch.tensor(GAMMA * error**2))


def test_with_scale_2_a_diffusion_is_trained_on_hr_averaged_over_2x2_pixels():
    """Images have the size of HR; the diffusion runs at half of its sides."""
    batch = images(side=16)
    smaller = functional.avg_pool2d(batch["hr"], 2)
    assert_close(method(smaller, scale=2.0).latent(batch), smaller * 2 - 1)


def test_with_scale_2_generated_pixels_are_repeated_2x2():
    """Images have the size of HR; the diffusion runs at half of its sides."""
    batch = images(side=16)
    smaller = functional.avg_pool2d(batch["hr"], 2)

    sr = method(smaller, scale=2.0).generate(batch, Noise(batch["seed"]))

    assert_near(sr, functional.interpolate(smaller, scale_factor=2, mode="nearest"), 1e-4)


# -------------------------------------------------------------------------------------- sampling


@PREDICTIONS
@pytest.mark.parametrize(
    ("variance", "eta"), [("preserving", 0.0), ("preserving", 1.0), ("exploding", 0.0)]
)
def test_sampling_goes_from_noise_to_the_x0_that_the_network_predicts(prediction, variance, eta):
    """In seven calls, one for each timestep."""
    batch = images()
    schedule = Schedule(prediction=prediction, variance=variance)
    sampler = replace(TRAILING, steps=7, eta=eta)
    model = method(batch["hr"], schedule, sampler=sampler)

    sr = model.generate(batch, Noise(batch["seed"]))

    assert_close(model.denoiser.inputs[0], Noise(batch["seed"]).normal(sr.shape))
    assert_near(sr, batch["hr"], 2e-4)
    called = [int(t[0]) for t in model.denoiser.timesteps]
    assert called == [999, 856, 713, 570, 428, 285, 142]  # trailing: from the last, 1000/7 apart


class OfText(Oracle):
    """Predicts pixels of a hundredth of its text's mean; the null text is -1."""

    def null_text(self, count, tokens=1):
        return torch.full((count, tokens, 6), -1.0)

    def forward(self, z_t, t, condition=None, residuals=None):
        self.timesteps.append(t)
        return 0.01 * condition.text.mean((1, 2)).view(-1, 1, 1, 1) + 0 * z_t


@pytest.mark.parametrize(("dropout", "text"), [(0.0, 1.0), (1.0, -1.0)])
def test_a_dropped_caption_is_the_null_text_in_training(dropout, text):
    """Else guidance would compare a text with one that was never trained."""
    batch = images(count=2) | {"text": ["a", "a"]}  # which `Words` encodes as 1
    schedule = Schedule(prediction="sample")
    parts = {"encoder": Words(), "schedule": schedule, "caption_dropout": dropout}
    model = make.quiet(Diffusion(1.0, OfText(None, schedule), **parts))

    loss = model.training_step(batch, 0)

    assert_close(loss, (0.01 * text - (batch["hr"] * 2 - 1)).square().mean())


@pytest.mark.parametrize(
    ("guidance", "rows", "expected"),
    [
        (1.0, 4, [1.0, 2.0, 3.0, 4.0]),  # what `Words` makes of captions: their lengths
        (3.0, 8, [5.0, 8.0, 11.0, 14.0]),  # -1 + 3 (length + 1), in a batch with the null texts
    ],
)
def test_guidance_goes_from_the_null_text_through_the_text(guidance, rows, expected):
    batch = images(count=4) | {"text": ["a", "aa", "aaa", "aaaa"]}
    schedule = Schedule(prediction="sample")
    sampler = replace(TRAILING, steps=2, guidance=guidance)
    denoiser = OfText(None, schedule)
    model = Diffusion(1.0, denoiser, encoder=Words(), schedule=schedule, sampler=sampler)

    sr = model.generate(batch, Noise(batch["seed"]))

    assert_near(sr[:, 0, 0, 0] * 2 - 1, 0.01 * torch.tensor(expected), 1e-5)
    assert [len(t) for t in denoiser.timesteps] == [rows, rows]
