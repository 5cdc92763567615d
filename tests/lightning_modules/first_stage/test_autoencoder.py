"""Autoencoder: losses by hand, the start at principal components, and its run as a space."""

from __future__ import annotations

from types import SimpleNamespace
from unittest.mock import patch

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
    method._trainer = SimpleNamespace(global_step=0, precision="32-true")
    return make.quiet(method)


def images(count=4, side=16):
    return make.smooth(count, (side, side), cell=4)


def batch(hr=None):
    hr = images() if hr is None else hr
    return make.batch(len(hr), tuple(hr.shape[-2:])) | {"hr": hr, "lr": hr}


# ---------------------------------------------------------------------------------------- training


@pytest.mark.parametrize("kind", SPACES)
def test_all_parts_of_the_autoencoder_get_gradients(kind):
    """Spaces are frozen for the methods that use their latents, and here they train."""
    method = autoencoder(SPACES[kind](), latent_noise=0.1)
    assert method.space.training

    method.generator_loss(batch())[0].backward()

    for name, parameter in method.named_parameters():
        # The residual decoder ends with zeros, so its other layers wait for the first step.
        if "residual" not in name:
            assert parameter.grad.any(), name


def test_the_loss_is_the_weighted_sum_of_l1_l2_divergence_and_perceptual_distance():
    weights = {"l1_weight": 2.0, "l2_weight": 3.0, "kl_weight": 0.1, "perceptual_weight": 0.5}
    losses = AutoencoderLosses(**weights, perceptual=make.Distance())
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


def test_the_loss_of_a_codebook_is_the_squared_distance_of_latents_to_their_nearest_entries():
    space = SPACES["VQ"]()
    losses = AutoencoderLosses(l1_weight=0.0, l2_weight=0.0, commitment_weight=0.5)

    loss, (hr, _) = autoencoder(space, losses).generator_loss(batch())

    latents = space.encode(hr).movedim(1, -1).flatten(0, 2)
    distances = torch.cdist(latents, space.vae.quantize.embedding.weight)
    squared_error = distances.min(1).values.square().sum() / latents.numel()
    # As in VQGAN: 1 for latents, which move to entries, and 0.25 for entries, to latents.
    assert_close(loss, 0.5 * (1 + 0.25) * squared_error)


def test_the_latents_of_each_image_get_noise_of_a_level_up_to_latent_noise():
    """So that the decoder tolerates the errors of a diffusion."""
    method = autoencoder(latent_noise=0.5)
    space = method.space
    hr = images(32)

    with patch.object(space, "decode", wraps=space.decode) as decode:
        method.generator_loss(batch(hr))

    (noisy,) = decode.call_args.args
    levels = (noisy - space.encode(hr)).flatten(1).std(1)
    assert levels.min() < 0.1
    assert 0.4 < levels.max() < 0.6  # 0.5, and the standard error of a latent's 192 values


def test_the_adversarial_loss_counts_from_its_start():
    losses = AutoencoderLosses(adversarial_weight=0.5, adversarial_start=2)
    method = autoencoder(losses=losses, discriminator=PatchGAN(width=8, layers=1))

    before, _ = method.generator_loss(batch())
    method._trainer.global_step = 2
    after, (_, decoded) = method.generator_loss(batch())

    (logits,) = method.discriminator(decoded)
    assert_close(after - before, -0.5 * logits.mean(), rtol=1e-4, atol=1e-5)


def test_the_discriminators_loss_is_the_hinge():
    """Means of relu(1 - D(HR)) and relu(1 + D(decoded)), halved."""
    method = autoencoder(discriminator=PatchGAN(width=8, layers=1))
    decoded = 1 - images()

    loss = method.discriminator_loss((images(), decoded))

    (of_hr,) = method.discriminator(images())
    (of_decoded,) = method.discriminator(decoded)
    hinge = (functional.relu(1 - of_hr).mean() + functional.relu(1 + of_decoded).mean()) / 2
    assert_close(loss, hinge)


# ------------------------------------------------------------------------------------- its start


def test_an_autoencoder_of_principal_components_is_the_best_linear_one():
    """By the singular vectors of patches of 4 x 4 pixels: 12 of 48, with latents of deviation 1."""
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


SQUARE = images(4, side=16)
ODD = images(3, side=24)[..., :22, :21]  # as of `crops.scales`: no multiples of a latent's 4 px


@pytest.fixture
def set_up(monkeypatch):
    """An autoencoder that began at the components of these batches."""
    method = autoencoder()
    method._trainer.ckpt_path = None
    monkeypatch.setattr(module, "first_batches", lambda *_: [batch(SQUARE), batch(ODD)])
    method.setup("fit")
    return method


def test_an_autoencoder_starts_from_batches_of_several_sizes(set_up):
    """Cropped to their least sides, 16 x 16: the mean of the latents of these crops is 0."""
    z = set_up.space.encode(torch.cat([SQUARE, ODD[..., :16, :16]]))
    assert z.mean((0, 2, 3)).abs().max() < 1e-3


def test_the_loss_cuts_images_to_whole_latents(set_up):
    loss, _ = set_up.generator_loss(batch(ODD))
    loss_of_cut, _ = set_up.generator_loss(batch(ODD[..., :20, :20]))
    assert_close(loss, loss_of_cut)


def test_a_second_fit_goes_on_with_the_weights_of_the_first(set_up, monkeypatch):
    monkeypatch.setattr(module, "first_batches", lambda *_: pytest.fail("it begins again"))
    set_up.setup("fit")
