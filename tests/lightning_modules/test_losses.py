"""Losses by hand, by NumPy, and by their definitions."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from lightning_modules.losses import (
    GAN,
    L1,
    LAYERS,
    Charbonnier,
    VGG19Features,
    VGG19Perceptual,
)
from tests.lightning_modules.vgg19 import save_vgg19


def images(seed: int, side: int = 12, count: int = 2) -> torch.Tensor:
    return torch.rand(count, 3, side, side, generator=torch.Generator().manual_seed(seed))


def test_differences_of_pixels() -> None:
    sr, hr = torch.tensor([[[[0.5, 1.25]]]]), torch.tensor([[[[0.5, 0.25]]]])
    assert L1()(sr, hr).item() == 0.5
    expected = (0.1 + (1 + 0.01) ** 0.5) / 2
    assert Charbonnier(eps=0.1)(sr, hr).item() == pytest.approx(expected)


# ------------------------------------------------------------------------------------ perceptual


def test_vgg19_is_torchvision_s(tmp_path: Path) -> None:
    """Layer by layer, before each ReLU, from the same file."""
    models = pytest.importorskip("torchvision.models")
    path = save_vgg19(tmp_path)
    state = torch.load(path)
    with torch.device("meta"):
        features = models.vgg19(weights=None).features
    own = {k.removeprefix("features."): v for k, v in state.items() if k.startswith("features")}
    features.load_state_dict(own, assign=True)
    mean, deviation = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    x = (images(0, 32) - mean.view(3, 1, 1)) / deviation.view(3, 1, 1)
    expected, stage, number = {}, 1, 0
    with torch.no_grad():
        for layer in features:
            x = layer(x.clone())
            if isinstance(layer, nn.MaxPool2d):
                stage, number = stage + 1, 0
            elif isinstance(layer, nn.Conv2d):
                number += 1
                expected[f"conv{stage}_{number}"] = x.clone()
    loss = VGG19Perceptual()
    loss.load(path)
    assert isinstance(loss.network, VGG19Features)
    found = loss.network(images(0, 32))
    assert found.keys() == LAYERS.keys()
    for name, value in found.items():
        torch.testing.assert_close(value, expected[name], rtol=1e-4, atol=1e-4)


def test_the_weights_of_layers_are_by_name(tmp_path: Path) -> None:
    path = save_vgg19(tmp_path, ("conv1_1", "conv1_2", "conv2_1"))
    parts = []
    for layers in ({"conv1_2": 1.0}, {"conv2_1": 1.0}, {"conv2_1": 0.5, "conv1_2": 3.0}):
        loss = VGG19Perceptual(layers=layers)
        loss.load(path)
        parts.append(loss(images(0), images(1)).item())
    assert parts[2] == pytest.approx(3 * parts[0] + 0.5 * parts[1], rel=1e-5)


def test_the_perceptual_network_is_frozen_and_gives_gradients(tmp_path: Path) -> None:
    loss = VGG19Perceptual(layers={"conv1_2": 1.0})
    loss.load(save_vgg19(tmp_path, ("conv1_1", "conv1_2")))
    sr = images(0).requires_grad_()
    loss.train()(sr, images(1)).backward()
    assert sr.grad is not None
    assert sr.grad.abs().sum() > 0
    assert not any(p.requires_grad for p in loss.parameters())
    assert loss.source.startswith(str(tmp_path))


# ----------------------------------------------------------------------------------- adversarial


def test_both_sides_by_hand() -> None:
    real, fake = [torch.tensor([[[[2.0, 0.0]]]])], [torch.tensor([[[[-3.0, 1.0]]]])]

    def softplus(*values: float) -> float:
        return float(np.log1p(np.exp(values)).mean())

    assert GAN().generator(fake).item() == pytest.approx(softplus(3, -1))
    both = softplus(-2, 0) + softplus(-3, 1)
    assert GAN().discriminator(real, fake).item() == pytest.approx(both)
    assert GAN().generator([fake[0], fake[0].repeat(1, 1, 2, 2)]).item() == pytest.approx(
        softplus(3, -1)
    )
