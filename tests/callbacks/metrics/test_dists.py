"""DISTS against torchmetrics, both with one randomly initialised VGG-16."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchmetrics.functional.image import dists as library
from torchvision import models

from callbacks import weights
from callbacks.metrics.perceptual import DISTS


@pytest.fixture(scope="module")
def vgg(tmp_path_factory: pytest.TempPathFactory) -> tuple[nn.Module, Path]:
    """Random features of VGG-16, and a file of them as torchvision publishes it."""
    with torch.device("meta"):
        features = models.vgg16(weights=None).features
    features.to_empty(device="cpu")
    generator = torch.Generator().manual_seed(0)
    for parameter in features.parameters():
        scale = parameter[0].numel() ** -0.5
        parameter.data.copy_(scale * torch.randn(parameter.shape, generator=generator))
    file = tmp_path_factory.mktemp("weights") / "vgg16.pth"
    torch.save({f"features.{k}": v for k, v in features.state_dict().items()}, file)
    return features, file


@pytest.fixture
def metric(vgg: tuple[nn.Module, Path], monkeypatch: pytest.MonkeyPatch) -> DISTS:
    monkeypatch.setattr(weights, "find", {"vgg16": vgg[1]}.get)
    monkeypatch.setattr(weights, "obtain", {"vgg16": vgg[1]}.get)
    before, original = torch.get_rng_state(), vars(library)["vgg16"]
    metric = DISTS()
    metric.load()
    assert torch.equal(torch.get_rng_state(), before)
    assert vars(library)["vgg16"] is original
    return metric


def pair() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    hr = torch.rand(3, 3, 48, 64, generator=generator)
    return (hr + 0.1 * torch.randn(hr.shape, generator=generator)).clamp(0, 1), hr


def compute(metric: DISTS, sr: Tensor, hr: Tensor) -> Tensor:
    batch: Any = {"key": [str(i) for i in range(len(sr))]}
    return metric.compute(sr, hr, batch)


def test_as_torchmetrics(
    metric: DISTS, vgg: tuple[nn.Module, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(library, "vgg16", lambda weights: SimpleNamespace(features=vgg[0]))
    sr, hr = ((x * 255).round() / 255 for x in pair())
    expected = library.deep_image_structure_and_texture_similarity(sr, hr)
    torch.testing.assert_close(compute(metric, sr, hr), expected, rtol=1e-5, atol=1e-7)
    assert (expected > 1e-3).all()
    torch.testing.assert_close(compute(metric, hr, hr), torch.zeros(3), rtol=0, atol=1e-5)
