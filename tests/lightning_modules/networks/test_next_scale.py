"""Bits of latents, grids, Infinity's autoencoder, NSARM's transformation network."""

from __future__ import annotations

import math
import re

import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.testing import assert_close

from lightning_modules import BitwiseVAE, LatentEstimate, Transformation
from lightning_modules.networks import bsq
from lightning_modules.networks.autoencoders import bitwise_vae_from_official
from lightning_modules.networks.bsq import published, quantized, scales_of
from lightning_modules.networks.transformation import Branch, from_official
from tests import make
from tests.reference.vqgan import VQGAN

# ---------------------------------------------------------------------------------- bits of latents


def test_latents_are_quantised_to_their_signs_on_the_unit_sphere():
    """Of d = 4 channels: +-1 / sqrt(4); zeros count as negative."""
    z = torch.tensor([3.0, -0.1, 0.0, -0.0]).view(1, 4, 1, 1)
    assert quantized(z).flatten().tolist() == [0.5, -0.5, -0.5, -0.5]
    assert bsq.to_bits(z).flatten().tolist() == [1, 0, 0, 0]


def test_bits_of_all_scales_are_those_of_infinity():
    """Each scale has the signs of what the codes before it have left of the latent.

    Infinity's code has a time axis, so it interpolates volumes: codes are enlarged trilinearly.
    """
    latent = make.normal(2, 5, 6, 8)
    sizes = [(1, 1), (2, 2), (3, 4), (6, 8)]

    scales = list(scales_of(latent, sizes))

    left = latent.unsqueeze(2)
    total = torch.zeros_like(left)
    for scale, (h, w) in zip(scales, sizes, strict=True):
        small = functional.interpolate(left, (1, h, w), mode="area")
        positive = functional.normalize(small, dim=1) > 0
        assert torch.equal(scale.bits, positive.squeeze(2).to(torch.uint8))
        code = torch.where(positive, 1.0, -1.0) / math.sqrt(5)
        enlarged = functional.interpolate(code, (1, 6, 8), mode="trilinear", align_corners=False)
        left = left - enlarged
        total = total + enlarged
    assert_close(scales[-1].total, total.squeeze(2))


def test_a_latent_is_decoded_from_the_bits_of_its_scales_alone():
    scales = list(scales_of(make.normal(2, 5, 6, 8), [(1, 1), (3, 4), (6, 8)]))
    codes = [bsq.from_bits(scale.bits) for scale in scales]
    assert torch.equal(bsq.total_after(codes), scales[-1].total)


@pytest.mark.parametrize("through", [False, True])
def test_a_codes_gradient_is_that_of_its_residuals_direction(through):
    """Signs have none, so the code of z counts as z / |z|: the straight-through estimate.

    The second residual is the latent less the first code, which counts as a constant; with
    ``through`` that code has its gradient there, too.
    """
    latent = make.normal(2, 5, 6, 8).requires_grad_()
    weight = make.normal(2, 5, 6, 8, seed=1)

    first, second = scales_of(latent, [(6, 8), (6, 8)], through=through)  # twice at full size
    (gradient,) = torch.autograd.grad((second.total * weight).sum(), latent)

    direction = functional.normalize(latent, dim=1)
    first_code = first.code.detach() + direction - direction.detach()  # its value, and a gradient
    subtracted = first_code if through else first_code.detach()
    total = first_code + functional.normalize(latent - subtracted, dim=1)
    (expected,) = torch.autograd.grad((total * weight).sum(), latent)
    assert_close(gradient, expected)


def test_with_a_patch_of_2_a_token_is_a_square_of_four_positions():
    x = torch.randn(2, 3, 4, 6)
    tokens = bsq.to_tokens(x, patch=2)
    assert tokens.shape == (2, 2 * 3, 4 * 3)
    last = tokens[:, -1].view(2, 3, 2, 2)
    assert torch.equal(last, x[:, :, -2:, -2:])
    assert torch.equal(bsq.from_tokens(tokens, (2, 3), patch=2), x)


def test_live_bits_are_counted_as_those_that_take_both_values():
    """Training logs their number: a bit that is the same everywhere carries no information."""
    bits = torch.tensor([[0, 1, 0], [1, 1, 0]]).view(2, 3, 1, 1)  # two images differ in the first
    assert bsq.live_bits(bits) == 1


def entropy(p):
    return torch.special.entr(p) + torch.special.entr(1 - p)


def test_the_entropy_penalty_is_the_mean_entropy_less_that_of_the_mean():
    """Of each of d = 4 bits, at the inverse temperature tau, by which both are divided.

    The probability follows from the squared distances of u to 1/sqrt(4) and -1/sqrt(4): their
    difference is 4 u / sqrt(4). It is low if each bit is certain, and both values are as frequent.
    """
    tau = 100  # a constant of the penalty
    z = torch.randn(3, 4, 5, 5, dtype=torch.float64)
    unit = functional.normalize(z, dim=1).movedim(1, -1).reshape(-1, 4)
    p = torch.sigmoid(-4 * unit * tau / math.sqrt(4))
    mean_entropy = entropy(p).sum(1).mean()
    entropy_of_mean = entropy(p.mean(0)).sum()
    expected = float(mean_entropy - entropy_of_mean) / tau
    assert float(bsq.entropy_penalty(z)) == pytest.approx(expected, rel=1e-5)


# -------------------------------------------------------------------------------------- the grids


@pytest.mark.parametrize(
    ("ratio", "tokens"),
    [
        (1.0, (521, 2521, 6425, 10521)),
        (1.25, (614, 2814, 6854, 10774)),
        (4 / 3, (665, 2657, 7085, 10973)),
        (1.5, (533, 2759, 6941, 10997)),
        (1.75, (472, 2628, 7220, 11252)),
        (2.0, (451, 2681, 7219, 11269)),
        (2.5, (555, 2555, 6805, 10805)),
        (3.0, (509, 2588, 7016, 11123)),
    ],
)
def test_tokens_of_the_published_grids(ratio, tokens):
    """Sums of h w over the first 7, 10, 12 and 13 grids of Infinity, by height over width.

    Wide images have the grids of tall ones, turned.
    """
    for budget, count in zip(("0.06M", "0.25M", "0.60M", "1M"), tokens, strict=True):
        tall = published(ratio, budget)
        wide = published(1 / ratio, budget)
        assert tall.tokens == count
        assert wide.tokens == count
        assert wide.grids == tuple((w, h) for h, w in tall.grids)


@pytest.mark.parametrize("budget", ["0.06M", "0.25M", "0.60M", "1M"])
def test_positions_are_counted_in_the_grid_of_1m_pixels_whatever_the_budget(budget):
    """As the released weights were trained: else their rotary embedding would not fit."""
    assert published(ratio=1.5, budget=budget).full == published(ratio=1.5, budget="1M").grids[-1]


def test_nsarm_predicts_10000_tokens_after_its_first_seven_scales():
    """Those seven, of images of 256 px, come from its transformation network."""
    scales = published(patch=2)
    assert scales.latents[6] == (256 // 8, 256 // 8)  # a position has 8 px
    assert scales.tokens - scales.spans[7].start == 10_000  # 10,521 less 521, as above


def test_a_token_of_patch_2_is_two_positions_of_the_latent_wide():
    scales = published(patch=2)
    assert scales.latents == [(2 * h, 2 * w) for h, w in scales.grids]


# ------------------------------------------------------------------------- Infinity's autoencoder

WIDTHS = (64, 64, 64)


def released_vae(widths, bits, nested=True):
    """VQGAN without attention, random, and its tensors by the names of a released file."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        reference = VQGAN(widths, entries=1, latent=bits)
    reference.encoder.mid.attn_1 = nn.Identity()
    reference.decoder.mid.attn_1 = nn.Identity()
    mask = 2 ** torch.arange(bits - 1, -1, -1)
    tensors = {"quantizer.lfq.mask": mask, "quantize.lfq.mask": mask}
    for name, tensor in reference.state_dict().items():
        if "quant" in name:
            continue
        if nested:  # `norm1.norm.weight` for `norm1.weight`, as published
            name = re.sub(r"((?:conv|nin)\w*)\.(weight|bias)$", r"\1.conv.\2", name)
            name = re.sub(r"(norm\w*)\.(weight|bias)$", r"\1.norm.\2", name)
        tensors[name] = tensor
    return reference, tensors


@pytest.mark.parametrize("nested", [True, False])
@torch.no_grad()
def test_a_released_autoencoder_computes_what_vqgan_does(nested):
    reference, official = released_vae(WIDTHS, 4, nested)
    assert ("encoder.down.0.block.0.norm1.norm.weight" in official) == nested
    vae = BitwiseVAE(4, WIDTHS)
    vae.load_state_dict(bitwise_vae_from_official(official))
    images = torch.rand(2, 3, 16, 24)

    f = vae.encode(images)

    assert_close(f, reference.encoder(2 * images - 1), rtol=1e-5, atol=1e-5)
    assert_close(vae.decode(f), (reference.decoder(f) + 1) / 2, rtol=1e-5, atol=1e-5)


# -------------------------------------------------------------- NSARM's transformation network


def small_transformation():
    torch.manual_seed(0)
    branches = [Branch(width=8, layers=1, heads=2), Branch(width=12, layers=2, heads=3)]
    return Transformation(bits=3, size=(6, 8), grids=[(2, 3), (6, 8)], branches=branches).eval()


def small_estimate():
    torch.manual_seed(0)
    grids = [(2, 3), (4, 6)]
    return LatentEstimate(bits=3, size=(3, 4), grids=grids, full=(6, 8), width=8, blocks=1)


def released_mapper(network):
    """Its weights by the names of the release."""
    names = {
        r"^trunk\.": r"feature_extractor.",
        r"^branches\.(\d+)\.local\.": r"feature_transforms.\1.",
        r"^branches\.(\d+)\.whole\.": r"transformers.\1.",
        r"^branches\.(\d+)\.out\.": r"output_projs.\1.",
    }
    tensors = {}
    for name, tensor in network.state_dict().items():
        for ours, theirs in names.items():
            name = re.sub(ours, theirs, name)
        tensors[f"map_transformer.{name}"] = tensor
    return tensors


@pytest.mark.parametrize("file", ["alone", "with the transformer"])
def test_a_released_mapper_is_read_alone_or_from_the_file_of_the_transformer(file):
    trained = make.fill(small_transformation())
    tensors = released_mapper(trained)
    if file == "alone":
        tensors = {name.removeprefix("map_transformer."): t for name, t in tensors.items()}
    else:
        tensors["word_embed.weight"] = torch.zeros(3, 3)
    network = small_transformation()

    network.load_state_dict(from_official(tensors))

    z = torch.randn(2, 3, 6, 8)
    for output, expected in zip(network(z), trained(z), strict=True):
        assert torch.equal(output, expected)


def test_an_unknown_tensor_of_a_released_mapper_is_left_for_loading_to_refuse():
    tensors = released_mapper(small_transformation())
    unknown = {"map_transformer.another.weight": torch.zeros(3)}
    assert len(from_official(tensors | unknown)) == len(tensors) + 1


def test_a_branchs_rows_are_read_as_they_lie_in_memory():
    """As released, without a transposition: (B, h w, C) is taken for (B, C, h, w)."""
    network = small_transformation()
    rows = []
    for branch in network.branches:
        branch.register_forward_hook(lambda _, __, output: rows.append(output))

    outputs = network(torch.randn(2, 3, 6, 8))

    for output, row, (h, w) in zip(outputs, rows, network.grids, strict=True):
        assert row.shape == (2, h * w, 3)
        assert torch.equal(output, row.reshape(2, 3, h, w))


def test_outputs_of_a_latent_estimate_are_what_its_own_codes_have_left_of_it():
    """So that each scale corrects the wrong bits of those before it."""
    network = small_estimate()
    z = torch.randn(2, 3, 3, 4)
    estimate = network.estimate(z)
    total = torch.zeros(2, 3, 6, 8)

    for output, grid in zip(network(z), network.grids, strict=True):
        left = functional.interpolate(estimate - total, grid, mode="area")
        assert_close(output, left)
        total = total + functional.interpolate(quantized(left), (6, 8), mode="bilinear")


HR_LATENT = make.normal(2, 3, 6, 8)
HR_SIZES = [(2, 3), (4, 6), (6, 8)]


def outputs_of_two_scales():
    return small_estimate()(make.normal(2, 3, 3, 4))


def test_targets_of_a_latent_estimate_are_what_its_outputs_codes_leave_of_hrs_latent():
    """The code of the first output is subtracted, right or wrong: the second learns to correct it.

    The first target is HR's latent at the first scale.
    """
    outputs = outputs_of_two_scales()

    first, second = small_estimate().targets(HR_LATENT, HR_SIZES, outputs)

    assert torch.equal(first, next(scales_of(HR_LATENT, HR_SIZES)).residual)
    code = functional.interpolate(quantized(outputs[0]), (6, 8), mode="bilinear")
    assert_close(second, functional.interpolate(HR_LATENT - code, (4, 6), mode="area"))


def test_targets_of_nsarms_network_are_what_the_codes_of_hrs_latent_leave_of_it():
    """Whatever its outputs are: a branch does not know those of the others."""
    first, second = small_transformation().targets(HR_LATENT, HR_SIZES, outputs_of_two_scales())

    expected_first, expected_second, _ = scales_of(HR_LATENT, HR_SIZES)
    assert torch.equal(first, expected_first.residual)
    assert torch.equal(second, expected_second.residual)
