"""Infinity as a method: what it trains on, what it is given, and what it makes."""

from __future__ import annotations

import pytest
import torch

from lightning_modules.methods.infinity import (
    Infinity,
    scale_weights,
    self_correction,
    teacher_forcing,
)
from lightning_modules.networks.bsq import Scales
from lightning_modules.networks.infinity import InfinityTransformer, Text, from_official
from tests.lightning_modules.next_scale_parts import BITS, space, transformer
from tests.lightning_modules.tiny import random_batch
from tests.reference.infinity_official import logits, random_weights


def method(**settings):
    found = Infinity(1, space(), transformer(), **settings)
    found.logged = {}
    found.log = lambda name, value, **_: found.logged.update({name: float(value.detach())})
    return found


class TestTraining:
    def test_the_loss_is_that_of_bits_said_by_the_image(self):
        """Holds also when bits are flipped and the labels correct them."""
        model = method()
        batch = random_batch(2, (32, 32), hr=(3, 32, 32))
        torch.manual_seed(1)
        loss = model.training_step(batch, 0)
        scales = model.space.scales((4, 4))
        torch.manual_seed(1)
        given = teacher_forcing(model.space.encode(batch["hr"]), scales, self_correction)
        none = model.transformer.no_text[:1].expand(2, 1, -1)
        got = model.transformer.encode_text(Text(none, torch.ones(2)))
        odds = model.transformer(given.inputs, scales, got).diff(dim=-1)[..., 0]
        each = torch.nn.functional.softplus(torch.where(given.bits > 0, -odds, odds)).mean(-1)
        weights = scale_weights(scales)
        torch.testing.assert_close(loss, (each * weights).sum(1).mean())
        assert model.logged["train/loss"] == pytest.approx(float(loss.detach()))
        right = (odds > 0) == (given.bits > 0)
        assert model.logged["train/bit_accuracy"] == pytest.approx(float(right.float().mean()))
        last = each[:, scales.spans[3]].mean()
        assert model.logged["train/loss_scale_4"] == pytest.approx(float(last), rel=1e-5)

    def test_tables_and_norms_are_not_decayed(self):
        groups = method().configure_optimizers().param_groups
        assert [group["weight_decay"] for group in groups] == [0.005, 0.0]
        model = method()
        named = {id(p): n for n, p in model.named_parameters()}
        decayed, others = ({named[id(p)] for p in group["params"]} for group in model.optimized())
        assert "transformer.blocks.0.mlp.0.weight" in decayed
        for table in ("no_text", "start", "blocks.1.own", "blocks.0.attention.log_scale"):
            assert f"transformer.{table}" in others
        assert decayed | others == {n for n, p in model.named_parameters() if p.requires_grad}


def test_the_table_for_no_text_begins_as_released():
    """Normal numbers of deviation 1.2, none beyond 2, and then divided."""
    torch.manual_seed(0)
    table = InfinityTransformer(BITS, 1, 64, 2, text_width=128, text_length=64).no_text
    numbers = table.detach() * 128**0.5
    assert numbers.abs().max() <= 2 + 1e-5
    assert 0.93 < numbers.std() < 0.99  # the deviation of such numbers is 0.955


class TestWeights:
    def test_logits_are_those_of_the_equations(self):
        """Of a released file, in two chunks of blocks, and texts of two lengths."""
        official = random_weights(128, 4, 2, 6, 256, 16)
        network = InfinityTransformer(6, 4, 128, 4, 256, 16).eval()
        network.load_state_dict(from_official(official, 16))
        scales = Scales([(1, 1), (2, 1), (2, 3), (4, 5)], full=(7, 9))
        generator = torch.Generator().manual_seed(1)
        text = Text(torch.randn(2, 5, 256, generator=generator), torch.tensor([3, 5]))
        inputs = torch.randn(2, sum(h * w for h, w in scales.grids) - 1, 6, generator=generator)
        with torch.no_grad():
            found = network(inputs, scales, network.encode_text(text))
        for one, given, words, length in zip(found, inputs, *text, strict=True):
            expected = logits(official, given, scales.grids, scales.full, words[:length], 2)
            torch.testing.assert_close(one.flatten(1), expected, rtol=1e-4, atol=1e-4)

    def test_a_released_file(self):
        model = method()
        official = random_weights(64, 2, 1, BITS, 128, 8)
        found = model.import_official(official)
        assert found.keys() == model.state_dict().keys()
        name = "transformer.blocks.1.attention.qkv.weight"
        assert torch.equal(found[name], official["blocks.1.sa.mat_qkv.weight"])
