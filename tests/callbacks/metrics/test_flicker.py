"""Flicker of clips that move, stand still or flicker; and metrics of sets of their frames."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from callbacks.metrics.swd import SWD
from callbacks.metrics.video import Flicker, FrameSWD


def smooth(seed: int, side: int = 80) -> Tensor:
    """Return (3, side, side), in [0.2, 0.8]."""
    draws = torch.Generator().manual_seed(seed)
    coarse = torch.rand(1, 3, side // 5, side // 5, generator=draws)
    return functional.interpolate(coarse, (side, side), mode="bicubic")[0] * 0.6 + 0.2


def moving(seed: int, step: int, frames: int = 4, side: int = 40) -> Tensor:
    """Return a window that moves to the right, (F, 3, side, side)."""
    image = smooth(seed)
    return torch.stack([image[:, 9 : 9 + side, n * step :][..., :side] for n in range(frames)])


def keys(count: int) -> Any:
    return {"key": [str(n) for n in range(count)]}


def flicker(clips: Tensor) -> dict[str, float]:
    metric = Flicker()
    features = metric.features(clips, keys(len(clips)))
    return metric.distances(features, features)


def test_motion_is_no_flicker() -> None:
    clips = torch.stack([moving(n, 2) for n in range(4)])
    found = flicker(clips)
    plain = float((clips * 255).diff(dim=1).abs().mean())
    assert found["flicker"] < 0.15 * plain
    assert found["flicker"] == found["flicker_real"]


def test_what_stands_still() -> None:
    clips = torch.stack([moving(n, 0) for n in range(3)])
    found = flicker(clips)
    assert list(found) == ["flicker", "flicker_static", "flicker_real", "flicker_static_real"]
    assert found["flicker_static"] == 0
    assert found["flicker"] < 0.05  # OpenCV moves by 32nds of a pixel
    # Brightness alternates by 10 levels; there is no motion.
    light = torch.tensor([0.0, 10, 0, 10]).view(1, -1, 1, 1, 1) / 255
    found = flicker(clips + light)
    assert found["flicker_static"] == pytest.approx(10, abs=0.5)
    assert 2 < found["flicker"] <= 10.5


def test_noise_of_each_frame_counts() -> None:
    clips = torch.stack([moving(n, 2) for n in range(3)])
    draws = torch.Generator().manual_seed(0)
    noisy = clips + 0.05 * torch.randn(clips.shape, generator=draws)
    assert flicker(noisy)["flicker"] > 4 * flicker(clips)["flicker"]


def test_frames_are_measured_as_images() -> None:
    of_frames, of_images = FrameSWD(levels=2, patches=9), SWD(levels=2, patches=9)
    clips = torch.stack([moving(n, 1) for n in range(6)])
    named: Any = {"key": [f"{n}/{t}" for n in range(6) for t in range(4)]}
    sr, hr = (of_frames.features(x, keys(6)).double() for x in (clips * 0.8, clips))
    frames = [of_images.features(x.flatten(0, 1), named).double() for x in (clips * 0.8, clips)]
    assert len(sr) == 6
    assert of_frames.distance(sr, hr) == pytest.approx(of_images.distance(*frames), rel=1e-6)
    # A reference may be of images.
    other = of_frames.features(clips[:, 0], keys(6)).double()
    assert of_frames.distance(sr, other) > 0
