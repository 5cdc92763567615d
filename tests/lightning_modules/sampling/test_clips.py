"""Captions and clips through what is made for images."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch.nn import functional
from torch.testing import assert_close

from lightning_modules import Diffusion, KLSpace, Schedule
from lightning_modules.backbone import library
from lightning_modules.backbone.condition import Condition
from lightning_modules.backbone.library import resized
from lightning_modules.methods.diffusion import TRAILING
from lightning_modules.noise import Noise, with_noise_seeds
from lightning_modules.sampling.captions import drop_captions, encode_captions
from tests import make
from tests.lightning_modules.backbone.texts import Pooled, Words
from tests.lightning_modules.backbone.unets import small_kl, wrapped
from tests.make import assert_near

# --------------------------------------------------------------------------------------- captions

BATCH = {"key": ["a", "b"], "text": ["one", "two, three"]}


def test_the_networks_own_token_stands_for_no_caption():
    denoiser = wrapped(null="learned")

    captions, nothing = encode_captions(BATCH, denoiser, Words())

    assert captions.text[:, 0, 0].tolist() == [3, 10]  # their lengths
    assert not captions.text.requires_grad
    assert torch.equal(nothing.text, denoiser.null_text(2, 3))
    nothing.text.sum().backward()
    assert denoiser.null.grad.any()  # it is learned


@pytest.mark.parametrize("null", ["none", "learned"])
def test_a_pooled_encoder_has_an_empty_caption_for_none(null):
    """For all parts: a pooled embedding of the caption would tell of it."""
    sizes = torch.ones(2, 6)

    captions, nothing = encode_captions(BATCH, wrapped(null=null), Pooled(), sizes)

    assert captions.pooled.tolist() == [[3] * 5, [10] * 5]
    assert not nothing.pooled.any()
    assert not nothing.text.any()
    assert nothing.sizes is captions.sizes


@pytest.mark.parametrize("share", [0.0, 1.0, 0.25])
def test_captions_are_dropped_with_all_of_their_parts(share):
    torch.manual_seed(0)
    sizes = torch.full((4000, 6), 7.0)
    captions = Condition(torch.ones(4000, 3, 6), torch.ones(4000, 5), sizes)
    nothing = Condition(torch.zeros(4000, 3, 6), torch.zeros(4000, 5), sizes)

    mixed = drop_captions(captions, nothing, share)

    kept = mixed.text[:, 0, 0]
    assert torch.equal(mixed.text, kept.view(-1, 1, 1).expand(-1, 3, 6))
    assert torch.equal(mixed.pooled, kept.view(-1, 1).expand(-1, 5))
    assert torch.equal(mixed.sizes, sizes)
    assert abs(1 - kept.mean() - share) < 0.03


# ------------------------------------------------------------------------------------------ clips


# Two clips of three frames: one by one, or two at once.
@pytest.mark.parametrize(("pixels", "calls"), [(1, [1] * 6), (2 * 16 * 24, [2] * 3)])
@torch.no_grad()
def test_frames_pass_an_autoencoder_as_images_as_many_as_there_is_room_for(
    pixels, calls, monkeypatch
):
    monkeypatch.setattr(library, "PIXELS", pixels)
    space = KLSpace(small_kl(scaling_factor=0.5))
    counts = []
    space.vae.encoder.register_forward_pre_hook(lambda _, args: counts.append(len(args[0])))
    clips = make.uniform(2, 3, 3, 16, 24)

    z = space.encode(clips)
    decoded = space.decode(z)

    assert counts == calls
    assert z.shape == (2, 4, 3, 8, 12)
    for frame in range(3):
        assert_close(z[:, :, frame], space.encode(clips[:, frame]))
        assert_close(decoded[:, frame], space.decode(z[:, :, frame]))


@pytest.mark.parametrize("mode", ["area", "bilinear", "bicubic", "nearest-exact"])
def test_frames_are_resized_alone(mode):
    x = make.normal(2, 5, 3, 8, 6)
    output = resized(x, (4, 12), mode)
    assert output.shape == (2, 5, 3, 4, 12)
    assert_close(output[:, :, 2], functional.interpolate(x[:, :, 2], (4, 12), mode=mode))


def test_all_frames_of_a_clip_begin_at_one_field():
    denoiser = wrapped("video", null="learned")
    sampler = replace(TRAILING, steps=3)
    schedule = Schedule(prediction="sample")
    model = Diffusion(2.0, denoiser, schedule=schedule, sampler=sampler).eval()
    inputs = []
    denoiser.register_forward_pre_hook(lambda _, args: inputs.append(args[0]))
    batch = make.batch(2, (16, 24), clip=(3, 3, 16, 24)) | {"frames": 3}

    sr = model.sample(batch)["sr"]

    assert sr.shape == (2, 3, 3, 16, 24)
    assert torch.equal(sr[..., ::2, ::2], sr[..., 1::2, 1::2])  # enlarged by repeating pixels
    seeds = with_noise_seeds(batch, model.noise_seed)["seed"]
    assert_near(inputs[0], Noise(seeds).normal((2, 3, 3, 8, 12)), 0.05)
    second = batch | {"key": ["1"], "seed": batch["seed"][1:], "clip": batch["clip"][1:]}
    assert_near(model.sample(second)["sr"], sr[1:], 1e-5)
