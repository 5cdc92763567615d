"""Clips through what is made for images: spaces, resizing, and a base that is trained."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch.nn import functional

from lightning_modules.backbone import library as frames
from lightning_modules.backbone.library import resized
from lightning_modules.backbone.schedule import Schedule
from lightning_modules.backbone.space import KLSpace
from lightning_modules.methods.diffusion import TRAILING, Diffusion
from lightning_modules.noise import Noise, with_noise_seeds
from lightning_modules.sampling.solvers import Sampler
from tests.lightning_modules.backbone.unets import small_kl, wrapped
from tests.lightning_modules.tiny import random_batch


def clips(count: int = 2, length: int = 3, side: int = 16) -> Any:
    made = random_batch(count, (side, side + 8), clip=(length, 3, side, side + 8))
    return {**made, "frames": length}


def base(**settings: Any) -> Any:
    denoiser = wrapped("video", null="learned", in_channels=3, out_channels=3)
    own = {k: settings.pop(k) for k in list(settings) if k in Sampler.__annotations__}
    sampler = replace(TRAILING, **{"steps": 3, **own})
    given = {"denoiser": denoiser, "sampler": sampler, "schedule": Schedule(prediction="sample")}
    method: Any = Diffusion(settings.pop("scale", 1.0), **given | settings)
    method.log = lambda *_, **__: None
    return method.eval()


# ------------------------------------------------------------------------------- spaces, resizing


@pytest.mark.parametrize("at_once", [1, 16 * 24 * 2, 1 << 20])
@torch.no_grad()
def test_frames_through_an_autoencoder(at_once, monkeypatch):
    """As images, in parts of so many pixels."""
    monkeypatch.setattr(frames, "PIXELS", at_once)
    space, clip = KLSpace(small_kl(scaling_factor=0.5)), clips()["clip"]
    asked = []
    space.vae.encoder.register_forward_pre_hook(lambda _, given: asked.append(len(given[0])))
    z = space.encode(clip)
    assert z.shape == (2, 4, 3, 8, 12)
    assert asked == {1: [1] * 6, 16 * 24 * 2: [2] * 3, 1 << 20: [6]}[at_once]
    again = space.decode(z)
    assert again.shape == clip.shape
    for sample in range(2):
        for frame in range(3):
            one = space.encode(clip[sample, frame][None])
            torch.testing.assert_close(z[sample, :, frame][None], one)
            torch.testing.assert_close(again[sample, frame][None], space.decode(one))


@torch.no_grad()
@pytest.mark.parametrize("mode", ["area", "bilinear", "bicubic", "nearest-exact"])
def test_frames_are_resized_alone(mode):
    x = torch.randn(2, 5, 3, 8, 6)
    found = resized(x, (4, 12), mode)
    assert found.shape == (2, 5, 3, 4, 12)
    torch.testing.assert_close(found[:, 2], functional.interpolate(x[:, 2], (4, 12), mode=mode))
    torch.testing.assert_close(resized(x[:, 2], (4, 12), mode), found[:, 2])


# ------------------------------------------------------------------------------------ a base


def test_clips_from_noise():
    """One field for all frames of a clip, and none of another clip."""
    method, given = base(scale=2.0), clips()
    drawn = []
    method.denoiser.register_forward_pre_hook(lambda _, args: drawn.append(args[0]))
    both = method.sample(given)["sr"]
    assert both.shape == (2, 3, 3, 16, 24)
    assert torch.equal(both[..., ::2, ::2], both[..., 1::2, 1::2])  # enlarged by repeating pixels
    assert drawn[0].shape == (2, 3, 3, 8, 12)
    expected = Noise(with_noise_seeds(given, method.noise_seed)["seed"]).normal((2, 3, 3, 8, 12))
    torch.testing.assert_close(drawn[0], expected, rtol=0, atol=0.05)
    alone = {**clips(), "key": ["1"], "seed": given["seed"][1:], "clip": given["clip"][1:]}
    torch.testing.assert_close(method.sample(alone)["sr"], both[1:], rtol=0, atol=1e-5)
