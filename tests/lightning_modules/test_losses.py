"""Losses by hand, by NumPy, and by their definitions."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn
from torchmetrics.functional import image as torchmetrics_image
from torchvision.models.vgg import cfgs, make_layers

from lightning_modules.losses import (
    DISTS,
    FFT,
    GAN,
    L1,
    LAYERS,
    LDL,
    MSSSIM,
    Charbonnier,
    FocalFrequency,
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


def test_ms_ssim_is_torchmetrics() -> None:
    hr = images(0, 176)
    sr = hr + 0.1 * torch.randn(hr.shape, generator=torch.Generator().manual_seed(1))
    theirs = torchmetrics_image.multiscale_structural_similarity_index_measure
    expected = 1 - theirs(sr, hr, data_range=1.0).item()
    with torch.autocast("cpu", torch.bfloat16):
        assert MSSSIM()(sr, hr).item() == pytest.approx(expected)
    negative = (1 - hr).requires_grad_()
    MSSSIM()(negative, hr).backward()
    assert negative.grad is not None
    assert negative.grad.isfinite().all()
    with pytest.raises(ValueError, match="more than 160 pixels a side"):
        MSSSIM()(sr[..., :160], hr[..., :160])


def test_spectra_by_numpy() -> None:
    sr, hr = images(0), images(1)
    difference = np.fft.fft2(sr.double().numpy() - hr.double().numpy())
    expected = (np.abs(difference.real).mean() + np.abs(difference.imag).mean()) / 2
    assert FFT()(sr, hr).item() == pytest.approx(expected, rel=1e-5)
    size = np.abs(difference) / 12
    focal = size / size.max((2, 3), keepdims=True) * size**2
    assert FocalFrequency()(sr, hr).item() == pytest.approx(focal.mean(), rel=1e-5)
    assert FocalFrequency()(hr, hr).item() == 0


def test_ldl_by_numpy() -> None:
    """Pixel by pixel; reflected at the borders, and 0 where the average is worse."""
    sr, hr, average = (images(seed).double().numpy() for seed in range(3))
    residual, other = np.abs(hr - sr).sum(1), np.abs(hr - average).sum(1)
    total = 0.0
    for image, padded in enumerate(np.pad(residual, ((0, 0), (3, 3), (3, 3)), "reflect")):
        spread = residual[image].var(ddof=1) ** 0.2
        for y, x in np.ndindex(12, 12):
            if residual[image, y, x] >= other[image, y, x]:
                local = padded[y : y + 7, x : x + 7].var(ddof=1)
                total += spread * local * residual[image, y, x]
    found = LDL()(*(torch.from_numpy(x) for x in (sr, hr, average)))
    assert found.item() == pytest.approx(total / sr.size)
    black = torch.zeros(1, 3, 12, 12, requires_grad=True)
    LDL()(black, *torch.zeros(2, 1, 3, 12, 12)).backward()
    assert black.grad is not None
    assert black.grad.isfinite().all()


# ------------------------------------------------------------------------------------ perceptual


def test_dists_is_torchmetrics(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    features = make_layers(cfgs["D"])
    state = {f"features.{name}": value for name, value in features.state_dict().items()}
    torch.save(state, tmp_path / "vgg16.pth")
    loss = DISTS()
    loss.load(tmp_path / "vgg16.pth")
    sr, hr = images(0, 48).requires_grad_(), images(1, 48)
    found = loss(sr, hr)
    monkeypatch.setattr(
        torchmetrics_image.dists, "vgg16", lambda weights: SimpleNamespace(features=features)
    )
    theirs = torchmetrics_image.dists.deep_image_structure_and_texture_similarity
    assert found.item() == pytest.approx(theirs(sr, hr).mean().item(), abs=1e-6)
    found.backward()
    assert sr.grad is not None
    assert sr.grad.abs().sum() > 0
    near = hr + 0.2 * (sr.detach() - 0.5)
    expected = loss(near, hr).item()
    with torch.autocast("cpu", torch.bfloat16):
        assert loss(near, hr).item() == pytest.approx(expected, rel=0.05)


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
    several = [fake[0], fake[0].repeat(1, 1, 2, 2)]
    assert GAN().generator(several).item() == pytest.approx(softplus(3, -1))
    lsgan, hinge = GAN(kind="lsgan"), GAN(kind="hinge")
    assert lsgan.generator(fake).item() == (16 + 0) / 2
    assert lsgan.discriminator(real, fake).item() == (1 + 1) / 2 + (9 + 1) / 2
    assert hinge.generator(several).item() == 1
    assert hinge.discriminator(real, fake).item() == (0 + 1) / 2 + (0 + 2) / 2
