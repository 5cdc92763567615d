"""Diffusion: the loss, its weights, sampling, and what is frozen."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn import functional

from lightning_modules.backbone.denoiser import Denoiser
from lightning_modules.backbone.schedule import Schedule
from lightning_modules.backbone.space import PixelSpace
from lightning_modules.methods.diffusion import TRAILING, Diffusion, min_snr_weights
from lightning_modules.noise import Noise
from lightning_modules.sampling.solvers import Sampler
from tests.lightning_modules.backbone.texts import Words
from tests.lightning_modules.tiny import random_batch

PREDICTIONS = pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])


class Oracle(Denoiser):
    """Knows the clean sample and the schedule, and notes what it was given."""

    channels = 3

    def __init__(self, x0, schedule=None):
        super().__init__()
        self.x0, self.schedule = x0, schedule or Schedule()
        self.weight = nn.Parameter(torch.zeros(()))
        self.got, self.texts = [], []

    def forward(self, z_t, t, condition=None, residuals=None):
        self.got.append(t)
        self.texts.append(condition.text)
        x0 = self.x0.repeat(len(z_t) // len(self.x0), 1, 1, 1)
        alpha, sigma = (
            torch.tensor([self.schedule.level(int(n))[i] for n in t]).view(-1, 1, 1, 1)
            for i in (0, 1)
        )
        norm = (alpha**2 + sigma**2).sqrt()  # 1 of a preserving process, whose v is predicted
        eps = (z_t * norm - alpha * x0) / sigma
        answers = {"epsilon": eps, "sample": x0, "v_prediction": (alpha * eps - sigma * x0) / norm}
        return answers[self.schedule.prediction] + 0 * self.weight

    def null_text(self, count, tokens=1):
        return torch.full((count, tokens, 6), -1.0)


def batch(count=4, side=8):
    images = random_batch(count, (side, side), hr=(3, side, side))
    return {**images, "text": ["a" * (n + 1) for n in range(count)]}


def oracle(prediction="epsilon", variance="preserving", given=None, **settings):
    given = batch() if given is None else given
    schedule = Schedule(prediction=prediction, variance=variance)
    knows = Oracle(given["hr"] * 2 - 1, schedule)
    return quiet(Diffusion(1.0, knows, schedule=schedule, **sampled(settings)))


def sampled(settings):
    """The settings, with those of the sampler in its group."""
    own = {k: settings.pop(k) for k in list(settings) if k in Sampler.__annotations__}
    return {**settings, "sampler": replace(TRAILING, **own)} if own else settings


def quiet(model):
    model.log = lambda *_, **__: None
    return model


# ---------------------------------------------------------------------------------------- training


@PREDICTIONS
def test_the_loss_is_that_of_what_was_mixed(prediction):
    method = oracle(prediction)
    assert method.training_step(batch(), 0) < 1e-6
    method.denoiser.x0 = method.denoiser.x0 + 0.1
    assert method.training_step(batch(), 0) > 1e-4


@pytest.mark.parametrize("timesteps", [None, (0, 1), (100, 300)])
def test_timesteps_that_are_trained_on(timesteps):
    given = {**batch(), "hr": torch.rand(2000, 3, 1, 1)}
    method = oracle(given=given, timesteps=timesteps)
    method.training_step(given, 0)
    first, end = timesteps or (0, 1000)
    (got,) = method.denoiser.got
    assert first <= got.min() < first + 0.01 * (end - first) + 1
    assert end - 0.01 * (end - first) - 1 <= got.max() < end


@PREDICTIONS
def test_weights_are_those_of_the_clean_samples_error(prediction):
    """Whatever is predicted, an error of the clean sample weighs min(SNR, gamma)."""
    schedule = Schedule(prediction=prediction, beta_start=0.0001, beta_end=0.02, betas="linear")
    weights = min_snr_weights(schedule, 5.0)
    generator = torch.Generator().manual_seed(0)
    x, wrong, eps = torch.randn(3, 1, 1, 4, generator=generator, dtype=torch.float64)
    for t in (0, 1, 30, 200, 500, 900, 999):
        at = torch.tensor([t])
        x_t = schedule.add_noise(x, eps, at)
        alpha, sigma = schedule.level(t)
        raw = {
            "sample": wrong,
            "epsilon": (x_t - alpha * wrong) / sigma,
            "v_prediction": (alpha * x_t - wrong) / sigma,
        }[prediction]
        error = (raw - schedule.target(x, eps, at)).square().mean()
        expected = min((alpha / sigma) ** 2, 5.0) * (wrong - x).square().mean()
        torch.testing.assert_close(weights[t].double() * error, expected, rtol=1e-5, atol=0)


def test_the_weights_are_used():
    method = oracle("sample", timesteps=(10, 11), min_snr=5.0)
    method.denoiser.x0 = method.denoiser.x0 + 0.1
    torch.testing.assert_close(method.training_step(batch(), 0), torch.tensor(5.0 * 0.01))


def test_smaller_images_by_their_area():
    given = batch(side=16)
    small_hr = given["hr"].unflatten(2, (8, 2)).unflatten(4, (8, 2)).mean((3, 5))
    method = quiet(Diffusion(2.0, Oracle(small_hr * 2 - 1)))
    torch.testing.assert_close(method.latent(given), small_hr * 2 - 1)
    found = method.generate(given, Noise(given["seed"]))
    assert found.shape == given["hr"].shape
    torch.testing.assert_close(
        functional.avg_pool2d(found, 2), found[..., ::2, ::2], rtol=0, atol=1e-6
    )
    torch.testing.assert_close(found[..., ::2, ::2], small_hr, rtol=0, atol=1e-4)


def test_encoded_latents_are_of_the_size_that_is_sampled():
    """Those of ``encode`` are of whole images; a base of some timesteps samples nothing."""
    given = {"latent": batch()["hr"] * 2 - 1, "space": PixelSpace().identity}
    knows = Oracle(given["latent"])
    for whole in (Diffusion(1.0, knows), Diffusion(2.0, knows, timesteps=(0, 300))):
        assert torch.equal(whole.latent(given), given["latent"])
    with pytest.raises(ValueError, match=r"1/2 of their sides .* set data.init_args.scale"):
        Diffusion(2.0, knows).latent(given)


# ---------------------------------------------------------------------------------------- sampling


@PREDICTIONS
@pytest.mark.parametrize(
    ("variance", "eta"), [("preserving", 0.0), ("preserving", 1.0), ("exploding", 0.0)]
)
def test_an_oracle_is_believed(prediction, variance, eta):
    given = batch()
    method = oracle(prediction, variance, steps=7, eta=eta)
    found = method.generate(given, Noise(given["seed"]))
    torch.testing.assert_close(found, given["hr"], rtol=0, atol=2e-4)
    got = [t.unique().tolist() for t in method.denoiser.got]
    assert got == [[t] for t in method.sampled]
    assert (len(got), got[0]) == (7, [999])


def test_guidance():
    """With a network that answers by its text alone, guidance is a straight line."""

    class Said(Oracle):
        def forward(self, z_t, t, condition=None, residuals=None):
            self.texts.append(condition.text)
            return 0.01 * condition.text.mean((1, 2)).view(-1, 1, 1, 1) + 0 * z_t

    given = batch()

    def made(guidance):
        schedule = Schedule(prediction="sample")
        settings = {"encoder": Words(), "guidance": guidance, "steps": 2, "schedule": schedule}
        method = Diffusion(1.0, Said(None), **sampled(settings))
        z = method.generate(given, Noise(given["seed"])) * 2 - 1
        return z[:, 0, 0, 0], [len(text) for text in method.denoiser.texts]

    found, calls = made(3.0)
    lengths = torch.arange(1.0, 5.0)
    torch.testing.assert_close(found, 0.01 * (-1 + 3 * (lengths + 1)), rtol=0, atol=1e-5)
    assert calls == [8, 8]
    plain, calls = made(1.0)
    torch.testing.assert_close(plain, 0.01 * lengths, rtol=0, atol=1e-5)
    assert calls == [4, 4]
