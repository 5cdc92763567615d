"""Losses by hand, by NumPy, and by torchmetrics and torchvision."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn
from torch.testing import assert_close
from torchmetrics.functional import image as torchmetrics
from torchvision import models
from torchvision.models.vgg import cfgs, make_layers

from lightning_modules import losses
from tests.lightning_modules.vgg19 import save_vgg19
from tests.make import uniform


def images(seed, side=12):
    return uniform(2, 3, side, side, seed=seed)


# ----------------------------------------------------------------------------------------- pixels


def test_l1_and_charbonnier_by_hand():
    sr = torch.tensor([[[[0.5, 1.25]]]])
    hr = torch.tensor([[[[0.5, 0.25]]]])
    assert losses.L1()(sr, hr).item() == 0.5
    expected = (0.1 + (1 + 0.1**2) ** 0.5) / 2  # sqrt(difference^2 + eps^2), of 0 and of 1
    assert losses.Charbonnier(eps=0.1)(sr, hr).item() == pytest.approx(expected)


def test_ms_ssim_is_torchmetrics_also_under_autocast():
    loss = losses.MSSSIM()
    hr = images(0, 176)
    sr = hr + 0.1 * images(1, 176)
    theirs = torchmetrics.multiscale_structural_similarity_index_measure(sr, hr, data_range=1.0)

    with torch.autocast("cpu", torch.bfloat16):
        assert loss(sr, hr).item() == pytest.approx(1 - theirs.item())
    with pytest.raises(ValueError, match="more than 160 pixels a side"):
        loss(sr[..., :160], hr[..., :160])


def test_the_gradient_of_ms_ssim_is_finite_where_images_are_opposite():
    hr = images(0, 176)
    opposite = (1 - hr).requires_grad_()
    losses.MSSSIM()(opposite, hr).backward()
    assert opposite.grad.isfinite().all()


def test_fft_and_focal_frequency_by_numpy():
    sr = images(0)
    hr = images(1)
    spectrum = np.fft.fft2(sr.double().numpy() - hr.double().numpy())
    parts = np.stack([spectrum.real, spectrum.imag])
    assert losses.FFT()(sr, hr).item() == pytest.approx(np.abs(parts).mean(), rel=1e-5)

    size = np.abs(spectrum) / 12  # by the side: orthonormal
    weights = size / size.max((2, 3), keepdims=True)
    focal = losses.FocalFrequency()
    assert focal(sr, hr).item() == pytest.approx((weights * size**2).mean(), rel=1e-5)
    assert focal(hr, hr).item() == 0


def test_ldl_by_numpy():
    """L1 weighed by the variance of 7x7 pixels; 0 where the averaged weights' output is worse."""
    sr = images(0).double()
    hr = images(1).double()
    average = images(2).double()
    residual = (hr - sr).abs().sum(1).numpy()
    of_average = (hr - average).abs().sum(1).numpy()
    padded = np.pad(residual, ((0, 0), (3, 3), (3, 3)), "reflect")
    total = 0.0
    for image, y, x in np.ndindex(2, 12, 12):
        if residual[image, y, x] >= of_average[image, y, x]:
            spread = residual[image].var(ddof=1) ** 0.2  # the paper's exponent
            local = padded[image, y : y + 7, x : x + 7].var(ddof=1)
            total += spread * local * residual[image, y, x]

    loss = losses.LDL()(sr, hr, average)

    assert loss.item() == pytest.approx(total / sr.numel())


def test_the_gradient_of_ldl_is_finite_where_images_are_equal():
    sr = torch.zeros(1, 3, 12, 12, requires_grad=True)
    black = torch.zeros(1, 3, 12, 12)
    losses.LDL()(sr, black, black).backward()
    assert sr.grad.isfinite().all()


# ------------------------------------------------------------------------------------- perceptual


def test_dists_is_torchmetrics(tmp_path, monkeypatch):
    torch.manual_seed(0)
    features = make_layers(cfgs["D"])
    state = {f"features.{name}": tensor for name, tensor in features.state_dict().items()}
    torch.save(state, tmp_path / "vgg16.pth")
    vgg16 = SimpleNamespace(features=features)
    monkeypatch.setattr(torchmetrics.dists, "vgg16", lambda weights: vgg16)
    theirs = torchmetrics.dists.deep_image_structure_and_texture_similarity
    loss = losses.DISTS()
    loss.load(tmp_path / "vgg16.pth")
    sr = images(0, 48).requires_grad_()
    hr = images(1, 48)

    distance = loss(sr, hr)
    distance.backward()

    assert distance.item() == pytest.approx(theirs(sr, hr).mean().item(), abs=1e-6)
    assert sr.grad.abs().sum() > 0
    near = hr + 0.2 * (sr.detach() - 0.5)
    expected = loss(near, hr).item()
    with torch.autocast("cpu", torch.bfloat16):
        assert loss(near, hr).item() == pytest.approx(expected, rel=0.05)


@torch.no_grad()
def test_vgg19_is_torchvisions_layer_by_layer(tmp_path):
    """Before each ReLU, from the same file."""
    path = save_vgg19(tmp_path)
    with torch.device("meta"):
        vgg19 = models.vgg19(weights=None)
    vgg19.load_state_dict(torch.load(path), assign=True)
    loss = losses.VGG19Perceptual()
    loss.load(path)
    x = images(0, 32)

    maps = loss.network(x)

    assert maps.keys() == losses.LAYERS.keys()
    mean = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)  # ImageNet's
    deviation = torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
    x = (x - mean) / deviation
    stage = 1
    number = 0
    for layer in vgg19.features:
        x = layer(x.clone())
        if isinstance(layer, nn.Conv2d):
            number += 1
            name = f"conv{stage}_{number}"
            if name in maps:
                assert_close(maps.pop(name), x, rtol=1e-4, atol=1e-4)
        elif isinstance(layer, nn.MaxPool2d):
            stage += 1
            number = 0
    assert not maps


def test_layers_have_weights_by_their_names(tmp_path):
    path = save_vgg19(tmp_path, ("conv1_1", "conv1_2", "conv2_1"))

    def distance(**layers):
        loss = losses.VGG19Perceptual(layers=layers)
        loss.load(path)
        return loss(images(0), images(1)).item()

    expected = 3 * distance(conv1_2=1.0) + 0.5 * distance(conv2_1=1.0)
    assert distance(conv2_1=0.5, conv1_2=3.0) == pytest.approx(expected, rel=1e-5)


# ------------------------------------------------------------------------------------ adversarial


def softplus(*values):
    return float(np.log1p(np.exp(values)).mean())


@pytest.mark.parametrize(
    ("kind", "of_generator", "of_real", "of_fake"),
    [
        ("vanilla", softplus(3, -1), softplus(-2, 0), softplus(-3, 1)),
        ("lsgan", (16 + 0) / 2, (1 + 1) / 2, (9 + 1) / 2),
        ("hinge", (3 - 1) / 2, (0 + 1) / 2, (0 + 2) / 2),
    ],
)
def test_the_gan_losses_by_hand(kind, of_generator, of_real, of_fake):
    real = [torch.tensor([[[[2.0, 0.0]]]])]
    fake = [torch.tensor([[[[-3.0, 1.0]]]])]
    loss = losses.GAN(kind=kind)  # real is 1, or above 0
    assert loss.generator(fake).item() == pytest.approx(of_generator)
    assert loss.discriminator(real, fake).item() == pytest.approx(of_real + of_fake)

    maps = [torch.tensor([[[[-3.0]]]]), torch.ones(1, 1, 3, 3)]  # which count alike
    assert loss.generator(maps).item() == pytest.approx(of_generator)
