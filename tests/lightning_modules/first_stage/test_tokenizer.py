"""The tokenizer's training: its losses and its bits, and its run as a space."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch.nn import functional
from torch.testing import assert_close

from lightning_modules import PatchGAN, Tokenizer
from lightning_modules.first_stage.tokenizer import TokenizerLosses
from lightning_modules.networks.bsq import entropy_penalty, quantized, scales_of
from tests import make
from tests.lightning_modules.next_scale_parts import GRIDS, vae

PIXELS = TokenizerLosses(pixel_weight=1.0, entropy_weight=0.0, commitment_weight=0.0)


def tokenizer(losses=PIXELS, drop_scales=0.0, **settings):
    """Of four scales."""
    return make.quiet(Tokenizer(1, vae(), GRIDS, losses, drop_scales=drop_scales, **settings))


def images():
    batch = make.batch(2, (32, 32), hr=(3, 32, 32))
    return batch | {"lr": batch["hr"]}


@pytest.mark.parametrize(
    ("name", "distance"), [("l1", functional.l1_loss), ("l2", functional.mse_loss)]
)
def test_the_loss_is_the_weighted_sum_of_pixel_entropy_and_commitment_loss(name, distance):
    """The last two are means over scales; commitment is the distance of residuals to their codes.

    Beside the loss, the discriminator gets HR and the decoded image, without a gradient.
    """
    losses = TokenizerLosses(
        pixel_distance=name, pixel_weight=3.0, entropy_weight=0.5, commitment_weight=0.2
    )
    model = tokenizer(losses)
    batch = images()

    loss, (real, made) = model.generator_loss(batch)

    scales = list(scales_of(model.vae.encode(batch["hr"]), GRIDS))
    decoded = model.vae.decode(scales[-1].total)
    entropy = torch.stack([entropy_penalty(scale.residual) for scale in scales]).mean()
    expected = 3 * distance(decoded, batch["hr"]) + 0.5 * entropy
    for scale in scales:
        unit = functional.normalize(scale.residual, dim=1)
        expected = expected + 0.2 * (unit - scale.code).square().mean() / len(scales)
    assert_close(loss, expected)
    assert_close(made, decoded)
    assert torch.equal(real, batch["hr"])
    assert not made.requires_grad


@pytest.mark.parametrize("seed", range(4))
def test_a_scale_that_is_dropped_adds_nothing_and_is_left_to_later_ones(seed):
    """Each scale but the last is dropped with the probability `drop_scales`, by torch's draws."""
    model = tokenizer(drop_scales=0.5)
    batch = images()
    torch.manual_seed(seed)
    loss, (_, made) = model.generator_loss(batch)

    torch.manual_seed(seed)
    dropped = torch.rand(len(GRIDS)) < 0.5
    dropped[-1] = False
    latent = model.vae.encode(batch["hr"])
    total = torch.zeros_like(latent)
    for grid, is_dropped in zip(GRIDS, dropped, strict=True):
        if not is_dropped:
            residual = functional.interpolate(latent - total, grid, mode="area")
            code = quantized(residual)
            total = total + functional.interpolate(code, GRIDS[-1], mode="bilinear")
    assert_close(made, model.vae.decode(total))
    assert_close(loss, functional.l1_loss(made, batch["hr"]))


def test_with_partial_share_1_only_two_or_three_first_scales_of_four_are_decoded():
    """From `partial_least`, 2, to all but one; so the first ones alone make good images."""
    model = tokenizer(partial_share=1.0, partial_least=2)
    batch = images()
    scales = scales_of(model.vae.encode(batch["hr"]), GRIDS)
    _, of_two, of_three, _ = [model.vae.decode(scale.total) for scale in scales]

    counts = {2: 0, 3: 0}
    for seed in range(10):
        torch.manual_seed(seed)
        _, (_, made) = model.generator_loss(batch)
        counts[2] += torch.allclose(made, of_two)
        counts[3] += torch.allclose(made, of_three)

    assert sum(counts.values()) == 10
    assert min(counts.values()) > 0


def test_with_smaller_the_loss_is_the_mean_of_both_sizes_and_the_discriminator_sees_the_larger():
    """Images of 32 px also at a quarter of their sides: tokenizers encode LR, too."""
    batch = images()
    small = batch | {"hr": functional.interpolate(batch["hr"], (8, 8), mode="area")}
    large_loss, _ = tokenizer().generator_loss(batch)
    small_loss, _ = tokenizer().generator_loss(small)
    judged = replace(PIXELS, adversarial_weight=0.5)
    model = tokenizer(judged, smaller=[4], discriminator=PatchGAN(width=8, layers=1))

    loss, (_, made) = model.generator_loss(batch)

    (logits,) = model.discriminator(made)
    assert_close(loss, (large_loss + small_loss) / 2 - 0.5 * logits.mean())
    assert model.logged.keys() >= {"train/pixel", "train/pixel_4"}


def test_a_released_file_fills_the_autoencoder_and_the_discriminator_stays():
    model = tokenizer(discriminator=PatchGAN(width=8, layers=2))
    tensors = model.import_official({"encoder.conv_in.conv.weight": torch.ones(1)})
    assert torch.equal(tensors["vae.encoder.conv_in.weight"], torch.ones(1))
    name = "discriminator.network.0.weight"
    assert torch.equal(tensors[name], model.state_dict()[name])
