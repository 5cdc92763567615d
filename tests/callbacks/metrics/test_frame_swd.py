"""FrameSWD is SWD of all frames."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from callbacks.metrics.swd import SWD
from callbacks.metrics.video import FrameSWD


def keys(count: int) -> Any:
    return {"key": [str(n) for n in range(count)]}


def test_frames_are_measured_as_images() -> None:
    of_frames, of_images = FrameSWD(levels=2, patches=9), SWD(levels=2, patches=9)
    clips = torch.rand(6, 4, 3, 40, 40, generator=torch.Generator().manual_seed(0))
    named: Any = {"key": [f"{n}/{t}" for n in range(6) for t in range(4)]}
    sr, hr = (of_frames.features(x, keys(6)).double() for x in (clips * 0.8, clips))
    frames = [of_images.features(x.flatten(0, 1), named).double() for x in (clips * 0.8, clips)]
    assert len(sr) == 6
    assert of_frames.distance(sr, hr) == pytest.approx(of_images.distance(*frames), rel=1e-6)
    # A reference may be of images.
    other = of_frames.features(clips[:, 0], keys(6)).double()
    assert of_frames.distance(sr, other) > 0
