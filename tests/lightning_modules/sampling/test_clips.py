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


def test_without_a_caption_the_networks_learned_token_is_used():
    """Which learns, so it has a gradient; the frozen encoder's captions have none."""
    denoiser = wrapped(null="learned")

    captions, nothing = encode_captions(BATCH, denoiser, Words())

    assert captions.text[:, 0, 0].tolist() == [3, 10]  # the captions' lengths
    assert not captions.text.requires_grad
    assert torch.equal(nothing.text, denoiser.null_text(2, 3))
    nothing.text.sum().backward()
    assert denoiser.null.grad.any()


@pytest.mark.parametrize("null", ["none", "learned"])
def test_without_a_caption_a_pooled_encoder_encodes_an_empty_one(null):
    """SDXL also reads a pooled embedding, which a learned token lacks.

    With that of the caption, the prediction without a caption would still know what it says.
    """
    sizes = torch.ones(2, 6)

    captions, nothing = encode_captions(BATCH, wrapped(null=null), Pooled(), sizes)

    assert captions.pooled.tolist() == [[3] * 5, [10] * 5]  # the captions' lengths
    assert not nothing.pooled.any()
    assert not nothing.text.any()
    assert nothing.sizes is captions.sizes


@pytest.mark.parametrize("share", [0.0, 1.0, 0.25])
def test_captions_are_dropped_with_all_of_their_parts(share):
    torch.manual_seed(0)
    count = 4000
    sizes = torch.full((count, 6), 7.0)
    captions = Condition(torch.ones(count, 3, 6), torch.ones(count, 5), sizes)
    nothing = Condition(torch.zeros(count, 3, 6), torch.zeros(count, 5), sizes)

    mixed = drop_captions(captions, nothing, share)

    kept = mixed.text[:, 0, 0]
    assert torch.equal(mixed.text, kept.view(-1, 1, 1).expand(-1, 3, 6))
    assert torch.equal(mixed.pooled, kept.view(-1, 1).expand(-1, 5))
    assert torch.equal(mixed.sizes, sizes)
    assert abs(1 - kept.mean() - share) < 0.03  # four standard deviations of a mean of 4000


# ------------------------------------------------------------------------------------------ clips


@pytest.mark.parametrize(
    ("pixels", "frames_of_calls"),
    [(1, [1, 1, 1, 1, 1, 1]), (2 * 16 * 24, [2, 2, 2])],
    ids=["less than a frame", "two frames"],
)
@torch.no_grad()
def test_an_autoencoder_gets_a_few_frames_at_once(pixels, frames_of_calls, monkeypatch):
    """Two clips of three frames; all six at once might need more memory than there is."""
    monkeypatch.setattr(library, "PIXELS", pixels)  # the most in a call, else 1024 x 1024
    space = KLSpace(small_kl(scaling_factor=0.5))
    counts = []
    space.vae.encoder.register_forward_pre_hook(lambda _, args: counts.append(len(args[0])))
    clips = make.uniform(2, 3, 3, 16, 24)  # clips, frames, colours, height, width

    z = space.encode(clips)
    decoded = space.decode(z)

    assert counts == frames_of_calls
    assert z.shape == (2, 4, 3, 8, 12)  # clips, channels, frames, half the height and width
    for frame in range(3):
        assert_close(z[:, :, frame], space.encode(clips[:, frame]))
        assert_close(decoded[:, frame], space.decode(z[:, :, frame]))


@pytest.mark.parametrize("mode", ["area", "bilinear", "bicubic", "nearest-exact"])
def test_each_frame_is_resized_as_an_image(mode):
    x = make.normal(2, 5, 3, 8, 6)  # of three frames
    output = resized(x, (4, 12), mode)
    assert output.shape == (2, 5, 3, 4, 12)
    for frame in range(3):
        image = x[:, :, frame]
        assert_close(output[:, :, frame], functional.interpolate(image, (4, 12), mode=mode))


def diffusion_of_clips():
    """Of scale 2: it samples half the sides, and repeats pixels."""
    sampler = replace(TRAILING, steps=3)
    schedule = Schedule(prediction="sample")
    denoiser = wrapped("video", null="learned")
    return Diffusion(2.0, denoiser, schedule=schedule, sampler=sampler).eval()


CLIPS = make.batch(2, (16, 24), clip=(3, 3, 16, 24)) | {"frames": 3}


def test_sampling_of_clips_starts_from_noise_that_differs_between_frames():
    """All frames of a clip are one draw from its seed."""
    model = diffusion_of_clips()
    inputs = []
    model.denoiser.register_forward_pre_hook(lambda _, args: inputs.append(args[0]))

    model.sample(CLIPS)

    seeds = with_noise_seeds(CLIPS, model.noise_seed)["seed"]
    draw = Noise(seeds).normal((2, 3, 3, 16 // 2, 24 // 2))  # clips, colours, frames
    assert_near(inputs[0], draw, 1e-6)
    assert not torch.equal(draw[:, :, 0], draw[:, :, 1])


def test_a_clip_is_the_same_whatever_else_is_in_the_batch():
    model = diffusion_of_clips()
    second = CLIPS | {"key": ["1"], "seed": CLIPS["seed"][1:], "clip": CLIPS["clip"][1:]}
    sr = model.sample(CLIPS)["sr"]
    assert sr.shape == (2, 3, 3, 16, 24)
    assert_near(model.sample(second)["sr"], sr[1:], 1e-5)
