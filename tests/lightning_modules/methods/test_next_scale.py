"""What Infinity and NSARM share: teacher forcing, weights of scales, and how bits are drawn."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional

from lightning_modules.methods.infinity import (
    Bitwise,
    bit_losses,
    drawn,
    sample,
    scale_weights,
    self_correction,
    teacher_forcing,
)
from lightning_modules.networks import bsq
from lightning_modules.networks.bsq import Scales
from lightning_modules.networks.infinity import Text
from lightning_modules.noise import Noise
from tests.lightning_modules.next_scale_parts import BITS, GRIDS, transformer

SCALES = Scales(GRIDS)
SPANS = SCALES.spans


def latent(seed=0, count=2):
    return torch.randn(count, BITS, 4, 4, generator=torch.Generator().manual_seed(seed))


def texts(count=2):
    features = torch.randn(count, 3, 128, generator=torch.Generator().manual_seed(5))
    return Text(features, torch.tensor([3, 1])[:count])


class TestTeacherForcing:
    def test_inputs_are_what_was_said_and_bits_what_it_left_out(self):
        f = latent()
        found, total = teacher_forcing(f, SCALES), torch.zeros_like(f)
        for number, (h, w) in enumerate(GRIDS):
            left = functional.interpolate(f - total, (h, w), mode="area")
            expected = (left > 0).flatten(2).mT.float()
            assert torch.equal(found.bits[:, SPANS[number]], expected)
            code = (2 * (left > 0) - 1) / BITS**0.5
            total = total + functional.interpolate(code, (4, 4), mode="bilinear")
            if number + 1 < len(GRIDS):
                below = functional.interpolate(total, GRIDS[number + 1], mode="bilinear")
                span = SPANS[number + 1]
                here = found.inputs[:, span.start - 1 : span.stop - 1]
                torch.testing.assert_close(here, below.flatten(2).mT)

    def test_self_correction_flips_up_to_its_strength_in_the_first_scales(self):
        residual = torch.rand(8, BITS, 32, 32) + 0.1
        shares = []
        torch.manual_seed(0)
        for _ in range(200):
            shares.append(float((self_correction(1, residual) < 0).float().mean()))
        assert 0.27 < max(shares) < 0.33
        assert min(shares) < 0.02
        assert sum(shares) / 200 == pytest.approx(0.15, abs=0.02)
        assert torch.equal(self_correction(13, residual), bsq.quantized(residual))


class TestLoss:
    def test_scales_weigh_by_the_square_root_of_their_area(self):
        weights = scale_weights(SCALES)
        assert float(weights.sum()) == pytest.approx(1)
        sums = [float(weights[span].sum()) for span in SPANS]
        assert [s / sums[0] for s in sums] == pytest.approx([1, 2, 3, 4])

    def test_cross_entropy_of_two_values(self):
        logits, bits = torch.randn(2, 3, BITS, 2), torch.randint(0, 2, (2, 3, BITS))
        expected = functional.cross_entropy(logits.flatten(0, 2), bits.flatten(), reduction="none")
        found = bit_losses(logits, bits.float())
        torch.testing.assert_close(found, expected.view(2, 3, BITS).mean(-1))


class TestDrawn:
    logits = torch.tensor([0.0, math.log(3)]).expand(1, 40_000, 1, 2)  # one in 3 of 4 cases

    def share(self, how):
        uniform = torch.rand(1, 40_000, 1, generator=torch.Generator().manual_seed(0))
        return float(drawn(self.logits, uniform, how).mean())

    def test_temperature(self):
        assert self.share(Bitwise(tau=1, top_p=1)) == pytest.approx(0.75, abs=0.01)
        assert self.share(Bitwise(tau=0.5, top_p=1)) == pytest.approx(0.9, abs=0.01)
        assert self.share(Bitwise(tau=0)) == 1

    def test_the_rarer_value_is_left_out(self):
        assert self.share(Bitwise(tau=1, top_p=0.75)) == 1
        assert self.share(Bitwise(tau=1, top_p=0.76)) == pytest.approx(0.75, abs=0.01)


class TestSample:
    network = transformer().eval()

    def noise(self, count=2):
        return Noise(torch.tensor([3, 4])[:count])

    @torch.no_grad()
    def test_greedy_bits_are_the_likelier_ones_of_teacher_forced_logits(self):
        """One code path: what was drawn scale by scale is what all scales at once would say."""
        codes = sample(self.network, SCALES, texts(), self.noise(), Bitwise(tau=0))
        given = teacher_forcing(
            bsq.total_after(codes), SCALES, lambda number, residual: codes[number]
        )
        logits = self.network(given.inputs, SCALES, self.network.encode_text(texts()))
        likelier = (logits[..., 1] > logits[..., 0]).float()
        for code, span in zip(codes, SPANS, strict=True):
            assert torch.equal((code > 0).float().flatten(2).mT, likelier[:, span])

    @torch.no_grad()
    def test_guidance_goes_on_from_no_text_through_the_text(self):
        """Logits l0 + g (l1 - l0): greedy bits are those of teacher-forced ones."""
        text, other = texts(), Text(texts().features.flip(0), texts().lengths.flip(0))
        both = Text(*(torch.cat(pair) for pair in zip(text, other, strict=True)))
        how = Bitwise(tau=0, guidance=3)
        codes = sample(self.network, SCALES, both, self.noise(), how)
        given = teacher_forcing(
            bsq.total_after(codes), SCALES, lambda number, residual: codes[number]
        )
        with_it, without = (
            self.network(given.inputs, SCALES, self.network.encode_text(each))
            for each in (text, other)
        )
        odds = (without + 3 * (with_it - without)).diff(dim=-1)[..., 0]
        assert ((odds > 0) != (with_it.diff(dim=-1)[..., 0] > 0)).any()
        for code, span in zip(codes, SPANS, strict=True):
            assert torch.equal((code > 0).flatten(2).mT, odds[:, span] > 0)

    @torch.no_grad()
    @pytest.mark.parametrize(("mode", "torchs"), [("area", "area"), ("trilinear", "bilinear")])
    def test_inputs_are_made_small_as_is_asked(self, mode, torchs):
        network, seen = transformer().eval(), []
        network.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
        how = Bitwise(1.0, next_input_mode=mode)
        codes = sample(network, SCALES, texts(), self.noise(), how)
        total = bsq.total_after([*codes[:2], torch.zeros(2, BITS, 4, 4)])
        expected = functional.interpolate(total, (3, 3), mode=torchs)
        torch.testing.assert_close(seen[2], expected.flatten(2).mT)
