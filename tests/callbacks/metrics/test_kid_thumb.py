"""KID-thumb: thumbnails by area, and which sets it distinguishes."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from callbacks.metrics.fid import KIDThumb

BATCH: Any = {"key": ["a"]}


def number(sr: Tensor, hr: Tensor) -> float:
    metric = KIDThumb()
    return metric.distance(*(metric.features(x, BATCH).double() for x in (sr, hr)))


def blobs(n: int, seed: int, level: float = 0.5) -> Tensor:
    """Smooth random colours, 32x32."""
    small = torch.rand(n, 3, 4, 4, generator=torch.Generator().manual_seed(seed)) * level
    return torch.nn.functional.interpolate(small, (32, 32), mode="bilinear").clamp(0, 1)


def test_thumbnails_are_means_of_areas() -> None:
    images = blobs(2, 0)
    found = KIDThumb().features(images, BATCH).view(2, 3, 8, 8)
    levels = (images * 255).round() / 255
    assert torch.allclose(found[1, 2, 3, 5], levels[1, 2, 12:16, 20:24].mean() * 2 - 1)
    assert found.min() < -0.5


def test_it_tells_sets_apart_but_not_samples_of_one() -> None:
    same = [number(blobs(40, 2 * i), blobs(40, 2 * i + 1)) for i in range(8)]
    darker = number(blobs(40, 0), blobs(40, 1, level=0.4))
    reddish = number(blobs(40, 0) * torch.tensor([1.2, 1.0, 0.8]).view(3, 1, 1), blobs(40, 1))
    assert min(same) < 0 < max(same)
    assert min(darker, reddish) > 2 * max(map(abs, same))
