"""Infinity, and what NSARM shares with it: teacher forcing, weights of scales, drawing bits."""

from __future__ import annotations

import math
from types import SimpleNamespace
from unittest.mock import patch

import pytest
import torch
from torch.nn import functional
from torch.testing import assert_close

from lightning_modules.methods import infinity
from lightning_modules.methods.infinity import Bitwise, Infinity
from lightning_modules.networks import bsq
from lightning_modules.networks.bsq import Scales
from lightning_modules.networks.infinity import InfinityTransformer, Text, from_official
from lightning_modules.noise import Noise
from tests import make
from tests.lightning_modules.next_scale_parts import BITS, GRIDS, space, transformer
from tests.reference.infinity_official import logits, random_weights

SCALES = Scales(GRIDS)  # of 1x1, 2x2, 3x3 and 4x4 tokens


def tokens(x):
    """The tokens (B, h w, C) of a map (B, C, h, w)."""
    return x.flatten(2).mT


TEXTS = Text(make.normal(2, 3, 128, seed=5), torch.tensor([3, 1]))  # of three words and of one


# ------------------------------------------------------------------------------- teacher forcing


def test_bits_are_signs_of_residuals_and_inputs_the_sums_of_previous_codes():
    """Of scale k: the sign of f - C_(k-1), and C_(k-1), both shrunk; C_k adds the scale's code."""
    latent = make.normal(2, BITS, 4, 4)

    forced = infinity.teacher_forcing(latent, SCALES)

    codes_so_far = torch.zeros_like(latent)
    for grid, span in zip(GRIDS, SCALES.spans, strict=True):
        if span.start > 0:  # the first scale has no input
            expected = functional.interpolate(codes_so_far, grid, mode="bilinear")
            assert_close(forced.inputs[:, span.start - 1 : span.stop - 1], tokens(expected))
        residual = functional.interpolate(latent - codes_so_far, grid, mode="area")
        assert torch.equal(forced.bits[:, span], tokens(residual > 0).float())
        code = (2 * (residual > 0) - 1) / BITS**0.5
        codes_so_far = codes_so_far + functional.interpolate(code, (4, 4), mode="bilinear")


POSITIVE = make.uniform(8, BITS, 32, 32) + 0.1  # a residual whose bits are all 1


def test_self_correction_flips_a_share_of_the_bits_from_0_to_30_percent():
    """Section 3.4 of Infinity: the transformer learns to correct bits that it drew wrong."""
    torch.manual_seed(0)

    codes = [infinity.self_correction(number=1, residual=POSITIVE) for _ in range(200)]
    shares = [(code < 0).float().mean().item() for code in codes]

    assert 0.27 < max(shares) < 0.33
    assert min(shares) < 0.02
    assert sum(shares) / 200 == pytest.approx(0.15, abs=0.02)  # all shares are as likely


@pytest.mark.parametrize(("number", "flips"), [(12, True), (13, False)])
def test_self_correction_flips_bits_of_the_first_13_scales_alone(number, flips):
    """As many as the published grids have; they count from 0."""
    code = infinity.self_correction(number, residual=POSITIVE)
    assert (code < 0).any() == flips


# -------------------------------------------------------------------------------------- the loss


def test_the_loss_weighs_the_cross_entropy_of_a_scales_bits_by_one_over_its_side():
    """Else the finest scale, with most of the tokens, would dominate. Some bits are flipped."""
    model = make.quiet(Infinity(1, space(), transformer()))
    batch = make.batch(2, (32, 32), hr=(3, 32, 32))
    torch.manual_seed(1)
    loss = model.training_step(batch, 0)

    torch.manual_seed(1)  # the same bits are flipped
    latent = model.space.encode(batch["hr"])
    forced = infinity.teacher_forcing(latent, SCALES, infinity.self_correction)
    no_text = Text(model.transformer.no_text[:1].expand(2, 1, -1), torch.ones(2))
    logits = model.transformer(forced.inputs, SCALES, model.transformer.encode_text(no_text))
    losses = functional.cross_entropy(logits.movedim(-1, 1), forced.bits.long(), reduction="none")
    first, second, third, fourth = [losses[:, span].mean() for span in SCALES.spans]
    # n x n tokens of weight 1 / n count n, of 1 + 2 + 3 + 4.
    assert_close(loss, (first + 2 * second + 3 * third + 4 * fourth) / 10)
    # The log has the same numbers.
    is_right = logits.argmax(-1) == forced.bits
    assert model.logged["train/loss"] == pytest.approx(loss.item())
    assert model.logged["train/bit_accuracy"] == pytest.approx(is_right.float().mean().item())
    assert model.logged["train/loss_scale_4"] == pytest.approx(fourth.item(), rel=1e-5)


def test_a_tenth_of_the_captions_are_dropped_in_training():
    """Else classifier-free guidance would compare with a table that was never trained."""
    model = make.quiet(Infinity(1, space(), transformer()))
    count = 200
    batch = make.batch(count, (32, 32), hr=(3, 32, 32), text_features=(3, 128))
    batch["text_lengths"] = torch.full((count,), 3)
    network = model.transformer
    torch.manual_seed(0)

    with torch.no_grad(), patch.object(network, "encode_text", wraps=network.encode_text) as encode:
        model.training_step(batch, 0)

    (text,) = encode.call_args.args
    dropped = (text.features == network.no_text[:3]).all((1, 2))
    assert 0.04 < dropped.float().mean() < 0.16  # 0.1, and three standard errors of 200 captions


def test_guidance_compares_a_text_with_the_table_for_no_text():
    model = Infinity(1, space(), transformer(), bits=Bitwise(guidance=3))
    batch = {"key": ["a", "b"], "text_features": TEXTS.features, "text_lengths": TEXTS.lengths}

    text, _ = model.sampling(batch)

    no_text = model.transformer.no_text[:3].expand(2, -1, -1)  # of the length of the texts
    assert torch.equal(text.features, torch.cat([TEXTS.features, no_text]))
    assert text.lengths.tolist() == [3, 1, 3, 1]


def test_drop_path_drops_branches_at_a_rate_that_grows_with_depth_and_keeps_their_mean():
    """Of three blocks at rates of 0, 0.25 and 0.5; what is kept grows by 1 / (1 - rate)."""
    sizes = {"width": 64, "heads": 2, "text_width": 128, "text_length": 8}
    network = InfinityTransformer(BITS, depth=3, **sizes, drop_path=0.5)
    factors = []  # for each block, by image: of what its attention and MLP add
    for block in network.blocks:
        block.register_forward_pre_hook(
            lambda _, args, named: factors.append(named["drop_path"]), with_kwargs=True
        )
    text = Text(make.normal(400, 1, 128), torch.ones(400))
    torch.manual_seed(0)

    network(None, Scales([(1, 1)]), network.encode_text(text))

    for factor, rate in zip(factors, (0.0, 0.25, 0.5), strict=True):
        kept = factor[factor > 0]
        assert_close(kept, torch.full_like(kept, 1 / (1 - rate)))
        # 400 images have a standard error of at most 0.025.
        assert (factor == 0).float().mean().item() == pytest.approx(rate, abs=0.06)


def test_weight_decay_is_for_layers_and_spares_tables_gates_and_scales():
    """0.005 is the decay of the default optimiser, ``lightning_modules.methods.infinity.adamw``."""
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
        (Bitwise(tau=0.5, top_p=1), 0.9),  # 3^2 to 1
        (Bitwise(tau=0), 1.0),
        (Bitwise(tau=1, top_p=0.75), 1.0),  # the value of 0.25 is left out
        (Bitwise(tau=1, top_p=0.76), 0.75),
    ],
)
def test_a_bit_of_probability_three_quarters_is_drawn_by_temperature_and_top_p(how, share):
    logits = torch.tensor([0.0, math.log(3)]).expand(1, 40_000, 1, 2)
    bits = infinity.drawn(logits, make.uniform(1, 40_000, 1), how)
    assert bits.mean().item() == pytest.approx(share, abs=0.01)


def test_a_bit_of_probability_1_is_drawn_as_1_also_if_the_uniform_number_rounds_to_1():
    """A bit is 1 if u is below its probability, and u is Phi(noise): for noise of 9, 1.0."""
    noise = SimpleNamespace(seeds=[0], normal=lambda shape: torch.full(shape, 9.0))
    logits = torch.tensor([0.0, 100.0]).expand(1, 1, BITS, 2)  # of 0 and 1

    code = infinity.drawn_code(logits, noise, grid=(1, 1), patch=1, how=Bitwise(tau=1))

    assert (code > 0).all()


def log_odds(network, codes, text):
    """The logit of 1 less that of 0, of the bits of all scales, in one call given all codes."""
    latent = bsq.total_after(codes)
    forced = infinity.teacher_forcing(latent, SCALES, lambda number, residual: codes[number])
    logits = network(forced.inputs, SCALES, network.encode_text(text))
    return logits[..., 1] - logits[..., 0]


@torch.no_grad()
@pytest.mark.parametrize("guidance", [1, 3])
def test_at_temperature_0_sampling_gives_the_likelier_bits_of_teacher_forcing(guidance):
    """So sampling scale by scale, with a cache, predicts what was trained in one call.

    Guidance: logits without the text + guidance (with - without); here another text is "without".
    """
    network = transformer().eval()
    other = Text(TEXTS.features.flip(0), TEXTS.lengths.flip(0))
    both = Text(
        torch.cat([TEXTS.features, other.features]), torch.cat([TEXTS.lengths, other.lengths])
    )
    how = Bitwise(tau=0, guidance=guidance)
    noise = Noise(torch.tensor([3, 4]))

    codes = infinity.sample(network, SCALES, TEXTS if guidance == 1 else both, noise, how)

    with_text = log_odds(network, codes, TEXTS)
    without = log_odds(network, codes, other)
    guided = without + guidance * (with_text - without)
    assert ((guided > 0) != (with_text > 0)).any() == (guidance > 1)  # it changes some bits
    for code, span in zip(codes, SCALES.spans, strict=True):
        assert torch.equal(tokens(code > 0), guided[:, span] > 0)


@torch.no_grad()
@pytest.mark.parametrize(("mode", "in_torch"), [("area", "area"), ("trilinear", "bilinear")])
def test_sampling_shrinks_the_sum_of_codes_by_next_input_mode(mode, in_torch):
    """To the input of the next scale; `trilinear` is Infinity's name for bilinear."""
    network = transformer().eval()
    inputs = []
    network.register_forward_pre_hook(lambda _, args: inputs.append(args[0]))

    how = Bitwise(next_input_mode=mode)
    codes = infinity.sample(network, SCALES, TEXTS, Noise(torch.tensor([3, 4])), how)

    first_two = bsq.total_after([codes[0], codes[1], torch.zeros(2, BITS, 4, 4)])
    third_input = functional.interpolate(first_two, GRIDS[2], mode=in_torch)
    assert_close(inputs[2], tokens(third_input))


# ------------------------------------------------------------------------------- released weights


def test_the_table_for_no_text_is_initialised_as_released():
    """Normal numbers of deviation 1.2, cut off at 2, divided by the root of the text's width.

    With a = 2 / 1.2 their deviation is 1.2 sqrt(1 - 2 a phi(a) / (2 Phi(a) - 1)) = 0.955.
    """
    torch.manual_seed(0)
    network = InfinityTransformer(BITS, depth=1, width=64, heads=2, text_width=128, text_length=64)
    numbers = network.no_text.detach() * 128**0.5
    assert numbers.abs().max() <= 2 + 1e-5
    assert 0.93 < numbers.std() < 0.99


@torch.no_grad()
def test_logits_are_those_of_the_equations():
    """By tests/reference, from weights as a released file has them: blocks in two chunks."""
    sizes = {"bits": 6, "depth": 4, "width": 128, "text_width": 256, "text_length": 16}
    official = random_weights(**sizes, chunks=2)
    network = InfinityTransformer(**sizes, heads=4).eval()
    network.load_state_dict(from_official(official, text_length=16))
    # Rotary positions are those of a larger grid, as in released files at less than 1M pixels.
    scales = Scales([(1, 1), (2, 1), (2, 3), (4, 5)], full=(7, 9))
    text = Text(make.normal(2, 5, 256, seed=1), torch.tensor([3, 5]))
    inputs = make.normal(2, scales.tokens - 1, 6)

    found = network(inputs, scales, network.encode_text(text))

    for image, length in enumerate(text.lengths):
        words = text.features[image, :length]
        expected = logits(official, inputs[image], scales.grids, scales.full, words, chunks=2)
        assert_close(found[image].flatten(1), expected, rtol=1e-4, atol=1e-4)


def test_a_released_file_fills_the_transformer_and_other_parts_stay():
    model = Infinity(1, space(), transformer())
    sizes = {"bits": BITS, "depth": 2, "width": 64, "text_width": 128, "text_length": 8}
    official = random_weights(**sizes, chunks=1)  # of the sizes of transformer()

    tensors = model.import_official(official)

    before = model.state_dict()
    assert tensors.keys() == before.keys()
    name = "transformer.blocks.1.attention.qkv.weight"
    assert torch.equal(tensors[name], official["blocks.1.sa.mat_qkv.weight"])
    others = [name for name in before if not name.startswith("transformer.")]
    assert others
    for name in others:
        assert torch.equal(tensors[name], before[name])
