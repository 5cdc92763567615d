"""The tokenizer's training: its losses, its bits, and what becomes of images of any size."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch.nn import functional

from lightning_modules.backbone.bitwise import BitwiseSpace
from lightning_modules.controls.simple import RoundTrip
from lightning_modules.first_stage.tokenizer import Tokenizer, TokenizerLosses
from lightning_modules.networks.bsq import entropy_penalty, quantized, scales_of
from lightning_modules.networks.discriminator import PatchGAN
from tests.lightning_modules.next_scale_parts import GRIDS, vae
from tests.lightning_modules.tiny import random_batch, save_run

PIXELS = {"pixel_weight": 1.0, "entropy_weight": 0.0, "commitment_weight": 0.0}


def method(**settings):
    fields = [field.name for field in dataclasses.fields(TokenizerLosses)]
    losses = TokenizerLosses(**{k: settings.pop(k) for k in list(settings) if k in fields})
    found = Tokenizer(1, vae(), GRIDS, losses, **{"drop_scales": 0.0, **settings})
    found.logged = {}
    found.log = lambda name, value, **_: found.logged.update({name: float(value.detach())})
    return found


def batch(h=32, w=32):
    given = random_batch(2, (h, w), hr=(3, h, w))
    return {**given, "lr": given["hr"]}


class TestLosses:
    @pytest.mark.parametrize(
        ("name", "apart"), [("l1", functional.l1_loss), ("l2", functional.mse_loss)]
    )
    def test_pixels_and_bits(self, name, apart):
        weights = {"pixel_weight": 3.0, "entropy_weight": 0.5, "commitment_weight": 0.2}
        model = method(pixel_distance=name, **weights)
        hr = batch()["hr"]
        loss, (real, made) = model.generator_loss(batch())
        scales = list(scales_of(model.vae.encode(hr), GRIDS))
        decoded = model.vae.decode(scales[-1].total)
        torch.testing.assert_close(made, decoded)
        assert real is hr or torch.equal(real, hr)
        entropy = sum(entropy_penalty(scale.residual) for scale in scales) / 4
        distance = sum(
            (functional.normalize(scale.residual, dim=1) - scale.code).square().mean()
            for scale in scales
        )
        expected = 3 * apart(decoded, hr) + 0.5 * entropy + 0.2 * distance / 4
        torch.testing.assert_close(loss, expected)
        assert not made.requires_grad

    def test_scales_that_say_nothing_are_made_up_for(self):
        """All but the last one, each by itself; what they leave out is still to be said."""
        model, hr = method(drop_scales=0.5, **PIXELS), batch()["hr"]
        seen = set()
        for seed in range(20):
            torch.manual_seed(seed)
            silent = [*(torch.rand(4) < 0.5)[:3].tolist(), False]
            torch.manual_seed(seed)
            loss, (_, made) = model.generator_loss(batch())
            f, total = model.vae.encode(hr), 0
            for size, drops in zip(GRIDS, silent, strict=True):
                residual = functional.interpolate(f - total, size, mode="area")
                said = quantized(residual) * (not drops)
                total = total + functional.interpolate(said, (4, 4), mode="bilinear")
            torch.testing.assert_close(made, model.vae.decode(total))
            torch.testing.assert_close(loss, functional.l1_loss(made, hr))
            seen.add(tuple(silent))
        assert len(seen) > 4

    def test_smaller_ones_count_alike(self):
        given = batch()
        small = functional.interpolate(given["hr"], (8, 8), mode="area")
        parts = [method().generator_loss(given | {"hr": hr})[0] for hr in (given["hr"], small)]
        model = method(smaller=[4])
        loss, (real, made) = model.generator_loss(given)
        torch.testing.assert_close(loss, sum(parts) / 2)
        assert real.shape == made.shape == (2, 3, 32, 32)
        assert {"train/pixel", "train/pixel_4"} <= model.logged.keys()


def test_the_space_of_its_run_says_the_same(tmp_path):
    model, given = method().eval(), batch()
    path = save_run(model, tmp_path / "tokenizer.ckpt")
    trip = RoundTrip(1, BitwiseSpace(vae(9), GRIDS, 1), "hr", str(path))
    assert trip.needs_weights
    trip.load_parts(lambda name, value: path)
    assert not trip.needs_weights
    assert trip.space.source.startswith(str(path))
    expected = model.enlarge(given)["sr"]
    torch.testing.assert_close(trip.eval().enlarge(given)["sr"], expected)


def test_a_released_file_has_the_autoencoder_alone():
    model = method(discriminator=PatchGAN(8, 2))
    tensors = {"encoder.conv_in.conv.weight": torch.ones(1)}
    found = model.import_official(tensors)
    assert torch.equal(found["vae.encoder.conv_in.weight"], torch.ones(1))
    assert "discriminator.network.0.weight" in found
