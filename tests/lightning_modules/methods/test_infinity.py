"""Infinity, and what NSARM shares with it: teacher forcing, weights of scales, drawing bits."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional
from torch.testing import assert_close

from lightning_modules.methods.infinity import (
    Bitwise,
    Infinity,
    drawn,
    sample,
    self_correction,
    teacher_forcing,
)
from lightning_modules.networks import bsq
from lightning_modules.networks.bsq import Scales
from lightning_modules.networks.infinity import InfinityTransformer, Text, from_official
from lightning_modules.noise import Noise
from tests import make
from tests.lightning_modules.next_scale_parts import BITS, GRIDS, space, transformer
from tests.reference.infinity_official import logits, random_weights

SCALES = Scales(GRIDS)


def rows(x):
    """The tokens (B, h w, C) of a map (B, C, h, w)."""
    return x.flatten(2).mT


TEXTS = Text(make.normal(2, 3, 128, seed=5), torch.tensor([3, 1]))  # of three words and of one


# ------------------------------------------------------------------------------- teacher forcing


def test_bits_are_what_the_scales_before_left_out_and_inputs_what_they_said():
    f = make.normal(2, BITS, 4, 4)

    forced = teacher_forcing(f, SCALES)

    total = torch.zeros_like(f)
    for grid, span in zip(GRIDS, SCALES.spans, strict=True):
        if span.start > 0:  # the first scale has none before it
            said = functional.interpolate(total, grid, mode="bilinear")
            assert_close(forced.inputs[:, span.start - 1 : span.stop - 1], rows(said))
        left = functional.interpolate(f - total, grid, mode="area")
        assert torch.equal(forced.bits[:, span], rows(left > 0).float())
        code = (2 * (left > 0) - 1) / BITS**0.5
        total = total + functional.interpolate(code, (4, 4), mode="bilinear")


def test_self_correction_flips_up_to_its_strength_in_the_first_scales():
    residual = torch.rand(8, BITS, 32, 32) + 0.1
    torch.manual_seed(0)

    shares = [(self_correction(1, residual) < 0).float().mean().item() for _ in range(200)]

    assert 0.27 < max(shares) < 0.33  # of a strength of 0.3
    assert min(shares) < 0.02
    assert sum(shares) / 200 == pytest.approx(0.15, abs=0.02)  # all shares are as likely
    # Scales are counted from 0, and the first 13 have flipped bits.
    assert torch.equal(self_correction(13, residual), bsq.quantized(residual))


# -------------------------------------------------------------------------------------- the loss


def test_the_loss_is_the_cross_entropy_of_bits_and_scales_weigh_by_the_root_of_their_area():
    """Also where bits are flipped and the labels correct them."""
    model = make.quiet(Infinity(1, space(), transformer()))
    batch = make.batch(2, (32, 32), hr=(3, 32, 32))
    torch.manual_seed(1)
    loss = model.training_step(batch, 0)

    scales = model.space.scales((4, 4))
    torch.manual_seed(1)
    forced = teacher_forcing(model.space.encode(batch["hr"]), scales, self_correction)
    no_text = Text(model.transformer.no_text[:1].expand(2, 1, -1), torch.ones(2))
    odds = model.transformer(forced.inputs, scales, model.transformer.encode_text(no_text))
    of_bits = functional.cross_entropy(odds.movedim(-1, 1), forced.bits.long(), reduction="none")
    shares = [0.1, 0.2, 0.3, 0.4]  # sides are 1 to 4
    expected = 0
    for share, span in zip(shares, scales.spans, strict=True):
        expected = expected + share * of_bits[:, span].mean()
    right = odds.argmax(-1) == forced.bits
    assert_close(loss, expected)
    assert model.logged["train/loss"] == pytest.approx(loss.item())
    assert model.logged["train/bit_accuracy"] == pytest.approx(right.float().mean().item())
    last = of_bits[:, scales.spans[3]].mean()
    assert model.logged["train/loss_scale_4"] == pytest.approx(last.item(), rel=1e-5)


def test_tables_and_norms_are_not_decayed():
    model = Infinity(1, space(), transformer())
    names = {parameter: name for name, parameter in model.transformer.named_parameters()}

    decayed, others = model.configure_optimizers().param_groups

    assert decayed["weight_decay"] == 0.005
    assert others["weight_decay"] == 0.0
    assert "blocks.0.mlp.0.weight" in {names[parameter] for parameter in decayed["params"]}
    spared = {names[parameter] for parameter in others["params"]}
    assert spared >= {"no_text", "start", "blocks.1.own", "blocks.0.attention.log_scale"}


# ------------------------------------------------------------------------------------ its drawing


@pytest.mark.parametrize(
    ("how", "share"),
    [
        (Bitwise(tau=1, top_p=1), 0.75),
        (Bitwise(tau=0.5, top_p=1), 0.9),
        (Bitwise(tau=0), 1.0),
        (Bitwise(tau=1, top_p=0.75), 1.0),  # the rarer value is left out
        (Bitwise(tau=1, top_p=0.76), 0.75),
    ],
)
def test_a_bit_that_is_one_in_three_of_four_cases(how, share):
    odds = torch.tensor([0.0, math.log(3)]).expand(1, 40_000, 1, 2)
    bits = drawn(odds, make.uniform(1, 40_000, 1), how)
    assert bits.mean().item() == pytest.approx(share, abs=0.01)


def odds_of(network, codes, text):
    """How much likelier 1 is than 0: of all scales at once, with the inputs that codes make."""
    total = bsq.total_after(codes)
    forced = teacher_forcing(total, SCALES, lambda number, residual: codes[number])
    return network(forced.inputs, SCALES, network.encode_text(text)).diff(dim=-1)[..., 0]


@torch.no_grad()
@pytest.mark.parametrize("guidance", [1, 3])
def test_greedy_bits_are_the_likelier_ones_of_teacher_forced_logits(guidance):
    """One code path; guidance goes from the one text through the other."""
    network = transformer().eval()
    other = Text(TEXTS.features.flip(0), TEXTS.lengths.flip(0))
    both = Text(
        torch.cat([TEXTS.features, other.features]), torch.cat([TEXTS.lengths, other.lengths])
    )
    how = Bitwise(tau=0, guidance=guidance)
    noise = Noise(torch.tensor([3, 4]))

    codes = sample(network, SCALES, TEXTS if guidance == 1 else both, noise, how)

    with_text = odds_of(network, codes, TEXTS)
    without = odds_of(network, codes, other)
    odds = without + guidance * (with_text - without)
    assert guidance == 1 or ((odds > 0) != (with_text > 0)).any()  # it changes some bits
    for code, span in zip(codes, SCALES.spans, strict=True):
        assert torch.equal(rows(code > 0), odds[:, span] > 0)


@torch.no_grad()
@pytest.mark.parametrize(("mode", "in_torch"), [("area", "area"), ("trilinear", "bilinear")])
def test_inputs_are_made_small_by_the_setting(mode, in_torch):
    network = transformer().eval()
    inputs = []
    network.register_forward_pre_hook(lambda _, args: inputs.append(args[0]))

    how = Bitwise(1.0, next_input_mode=mode)
    codes = sample(network, SCALES, TEXTS, Noise(torch.tensor([3, 4])), how)

    total = bsq.total_after([codes[0], codes[1], torch.zeros(2, BITS, 4, 4)])
    expected = functional.interpolate(total, (3, 3), mode=in_torch)
    assert_close(inputs[2], rows(expected))


# ------------------------------------------------------------------------------- released weights


def test_the_table_for_no_text_begins_as_released():
    """Normal numbers of deviation 1.2, none beyond 2, and then divided."""
    torch.manual_seed(0)
    table = InfinityTransformer(BITS, 1, 64, 2, text_width=128, text_length=64).no_text
    numbers = table.detach() * 128**0.5
    assert numbers.abs().max() <= 2 + 1e-5
    assert 0.93 < numbers.std() < 0.99  # the deviation of such numbers is 0.955


@torch.no_grad()
def test_logits_are_those_of_the_equations():
    """Of a released file, in two chunks of blocks, for texts of two lengths."""
    official = random_weights(128, 4, 2, 6, 256, 16)
    network = InfinityTransformer(6, 4, 128, 4, 256, 16).eval()
    network.load_state_dict(from_official(official, 16))
    scales = Scales([(1, 1), (2, 1), (2, 3), (4, 5)], full=(7, 9))
    text = Text(make.normal(2, 5, 256, seed=1), torch.tensor([3, 5]))
    inputs = make.normal(2, scales.tokens - 1, 6)

    found = network(inputs, scales, network.encode_text(text))

    for image, length in enumerate(text.lengths):
        words = text.features[image, :length]
        expected = logits(official, inputs[image], scales.grids, scales.full, words, 2)
        assert_close(found[image].flatten(1), expected, rtol=1e-4, atol=1e-4)


def test_a_released_file_fills_the_transformer_and_other_parts_stay():
    model = Infinity(1, space(), transformer())
    official = random_weights(64, 2, 1, BITS, 128, 8)  # of the sizes of transformer()

    tensors = model.import_official(official)

    before = model.state_dict()
    assert tensors.keys() == before.keys()
    name = "transformer.blocks.1.attention.qkv.weight"
    assert torch.equal(tensors[name], official["blocks.1.sa.mat_qkv.weight"])
    others = [name for name in before if not name.startswith("transformer.")]
    assert others
    for name in others:
        assert torch.equal(tensors[name], before[name])
