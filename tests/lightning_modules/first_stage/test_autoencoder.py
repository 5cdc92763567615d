"""Autoencoder: losses by hand, the start at principal components, and its run as a space."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch.nn import functional
from torch.testing import assert_close

from lightning_modules import Autoencoder, KLSpace, PatchGAN, PCASpace, ResShiftVQ
from lightning_modules.first_stage import autoencoder as module
from lightning_modules.first_stage.autoencoder import AutoencoderLosses
from lightning_modules.networks.autoencoders import PCAAutoencoder
from tests import make
from tests.lightning_modules.others import KL
from tests.make import assert_near

SPACES = {
    "PCA": PCASpace,
    "KL": lambda: KLSpace(KL),
    "VQ": lambda: ResShiftVQ((32, 32), entries=16),
}


def autoencoder(space=None, losses=None, **settings):
    torch.manual_seed(0)
    method = Autoencoder(1.0, space or PCASpace(), losses or AutoencoderLosses(), **settings)
    method._trainer = SimpleNamespace(global_step=0)
    return make.quiet(method)


def images(count=4, side=16):
    return make.smooth(count, (side, side), cell=4)


def batch(hr=None):
    hr = images() if hr is None else hr
    return make.batch(len(hr), tuple(hr.shape[-2:])) | {"hr": hr, "lr": hr}


# ---------------------------------------------------------------------------------------- training


@pytest.mark.parametrize("kind", SPACES)
def test_the_whole_autoencoder_trains(kind):
    method = autoencoder(SPACES[kind](), latent_noise=0.1)
    assert method.space.training

    method.generator_loss(batch())[0].backward()

    for name, parameter in method.named_parameters():
        # The residual decoder ends with zeros, so its other layers wait for the first step.
        if "residual" not in name and "quantize" not in name:
            assert parameter.grad.any(), name


def test_the_loss_is_the_sum_of_its_parts():
    losses = AutoencoderLosses(
        l1_weight=2.0,
        l2_weight=3.0,
        kl_weight=0.1,
        perceptual=make.Distance(),
        perceptual_weight=0.5,
    )
    space = KLSpace(KL)
    method = autoencoder(space, losses)
    torch.manual_seed(1)
    loss, (hr, decoded) = method.generator_loss(batch())

    torch.manual_seed(1)
    posterior = space.vae.encode(2 * hr - 1).latent_dist
    z = posterior.mean + posterior.std * torch.randn_like(posterior.mean)
    assert_near(decoded, (space.vae.decode(z).sample + 1) / 2, 1e-5)
    error = decoded - hr
    expected = 2 * error.abs().mean() + 3 * error.square().mean()
    expected += 0.1 * posterior.kl().mean() / (3 * 16 * 16)  # for each value of the image
    expected += 0.5 * make.Distance()(decoded, hr).mean()
    assert_close(loss, expected)


def test_the_discriminator_counts_from_its_start():
    losses = AutoencoderLosses(adversarial_weight=0.5, adversarial_start=2)
    method = autoencoder(losses=losses, discriminator=PatchGAN(8, 1))

    before, _ = method.generator_loss(batch())
    method._trainer.global_step = 2
    after, made = method.generator_loss(batch())

    opinion = method.discriminator(made[1])[0].mean()
    assert_close(after - before, -0.5 * opinion, rtol=1e-4, atol=1e-5)
    assert method.discriminator_loss(made).requires_grad


# ------------------------------------------------------------------------------------- its start


def test_principal_components_are_the_best_linear_autoencoder():
    x = images(8)
    network = PCAAutoencoder(latent=12).eval()

    network.initialise(x)

    patches = functional.unfold(x, 4, stride=4).mT.flatten(0, 1)
    mean = patches.mean(0)
    _, _, vectors = torch.linalg.svd(patches - mean, full_matrices=False)
    best = mean + (patches - mean) @ vectors[:12].T @ vectors[:12]
    z = network.encode(x)
    decoded = functional.unfold(network.decode(z), 4, stride=4).mT.flatten(0, 1)
    assert_near(decoded, best, 1e-4)
    assert z.mean((0, 2, 3)).abs().max() < 1e-3
    assert_close(z.std((0, 2, 3)), torch.ones(12), rtol=0.02, atol=0)


def test_an_autoencoder_starts_from_batches_of_several_sizes_and_once(monkeypatch):
    """As with ``crops.scales``, whose sides need not be whole latents."""
    square = images()
    odd = images(3, 24)[..., :22, :21]
    method = autoencoder()
    method._trainer.ckpt_path = None
    monkeypatch.setattr(module, "first_batches", lambda *_: [batch(square), batch(odd)])

    method.setup("fit")

    z = method.space.encode(torch.cat([square, odd[..., :16, :16]]))
    assert z.mean((0, 2, 3)).abs().max() < 1e-3
    method.generator_loss(batch(odd))[0].backward()
    monkeypatch.setattr(module, "first_batches", lambda *_: pytest.fail("it begins again"))
    method.setup("fit")  # a second training goes on
