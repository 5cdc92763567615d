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

SIDE = 12


def images(seed, side=SIDE):
    return uniform(2, 3, side, side, seed=seed)


# ----------------------------------------------------------------------------------------- pixels


SR = torch.tensor([[[[0.5, 1.25]]]])
HR = torch.tensor([[[[0.5, 0.25]]]])


def test_l1_is_the_mean_absolute_difference():
    assert losses.L1()(SR, HR).item() == (0 + 1) / 2


def test_charbonnier_is_the_root_of_squared_difference_and_squared_eps():
    expected = (0.1 + (1 + 0.1**2) ** 0.5) / 2  # of the differences 0 and 1
    assert losses.Charbonnier(eps=0.1)(SR, HR).item() == pytest.approx(expected)


def test_ms_ssim_is_torchmetrics_also_under_autocast():
    hr = images(0, side=176)
    sr = hr + 0.1 * images(1, side=176)
    theirs = torchmetrics.multiscale_structural_similarity_index_measure(sr, hr, data_range=1.0)
    with torch.autocast("cpu", torch.bfloat16):
        assert losses.MSSSIM()(sr, hr).item() == pytest.approx(1 - theirs.item())


def test_ms_ssim_of_images_smaller_than_its_window_is_refused():
    """At the coarsest of its five scales 160 pixels are 10, and the window has 11."""
    with pytest.raises(ValueError, match="more than 160 pixels a side"):
        losses.MSSSIM()(images(0, side=160), images(1, side=160))


def test_the_gradient_of_ms_ssim_is_finite_where_images_are_opposite():
    """Its terms are negative there, and a power of them would be NaN."""
    hr = images(0, side=176)
    opposite = (1 - hr).requires_grad_()
    losses.MSSSIM()(opposite, hr).backward()
    assert opposite.grad.isfinite().all()


def test_fft_is_the_mean_absolute_part_of_the_differences_spectrum():
    sr = images(0)
    hr = images(1)
    spectrum = np.fft.fft2((sr - hr).double().numpy())
    parts = np.stack([spectrum.real, spectrum.imag])
    assert losses.FFT()(sr, hr).item() == pytest.approx(np.abs(parts).mean(), rel=1e-5)


def test_focal_frequency_weighs_each_power_by_its_relative_amplitude():
    sr = images(0)
    hr = images(1)
    amplitude = np.abs(np.fft.fft2((sr - hr).double().numpy())) / SIDE  # orthonormal
    weights = amplitude / amplitude.max((2, 3), keepdims=True)
    focal = losses.FocalFrequency()
    assert focal(sr, hr).item() == pytest.approx((weights * amplitude**2).mean(), rel=1e-5)
    assert focal(hr, hr).item() == 0  # without a division by the largest, 0


def test_ldl_is_the_papers_weighted_l1():
    """The residual, summed over colours, times its variance in 7x7 pixels and its image's ** 0.2.

    It counts where it is not below that of the averaged weights' output.
    """
    sr = images(0).double()
    hr = images(1).double()
    of_averaged_weights = images(2).double()
    residual = (hr - sr).abs().sum(1).numpy()
    averaged_residual = (hr - of_averaged_weights).abs().sum(1).numpy()
    padded = np.pad(residual, ((0, 0), (3, 3), (3, 3)), "reflect")
    total = 0.0
    for image, y, x in np.ndindex(2, SIDE, SIDE):
        if residual[image, y, x] >= averaged_residual[image, y, x]:
            global_weight = residual[image].var(ddof=1) ** 0.2
            local_weight = padded[image, y : y + 7, x : x + 7].var(ddof=1)
            total += global_weight * local_weight * residual[image, y, x]

    loss = losses.LDL()(sr, hr, of_averaged_weights)

    assert loss.item() == pytest.approx(total / sr.numel())


def test_the_gradient_of_ldl_is_finite_where_images_are_equal():
    """The power 0.2 has an infinite slope at 0."""
    sr = torch.zeros(1, 3, 12, 12, requires_grad=True)
    black = torch.zeros(1, 3, 12, 12)
    losses.LDL()(sr, black, black).backward()
    assert sr.grad.isfinite().all()


# ------------------------------------------------------------------------------------- perceptual


@pytest.fixture
def vgg16():
    """The layers of VGG16, with random weights."""
    torch.manual_seed(0)
    return make_layers(cfgs["D"])


@pytest.fixture
def dists(vgg16, tmp_path):
    """DISTS with these weights."""
    state = {f"features.{name}": tensor for name, tensor in vgg16.state_dict().items()}
    torch.save(state, tmp_path / "vgg16.pth")
    loss = losses.DISTS()
    loss.load(tmp_path / "vgg16.pth")
    return loss


def test_dists_is_torchmetrics(dists, vgg16, monkeypatch):
    model = SimpleNamespace(features=vgg16)  # torchmetrics would download it
    monkeypatch.setattr(torchmetrics.dists, "vgg16", lambda weights: model)
    theirs = torchmetrics.dists.deep_image_structure_and_texture_similarity
    sr = images(0, side=48).requires_grad_()
    hr = images(1, side=48)

    distance = dists(sr, hr)
    distance.backward()

    assert distance.item() == pytest.approx(theirs(sr, hr).mean().item(), abs=1e-6)
    assert sr.grad.abs().sum() > 0


def test_dists_under_autocast_is_near_that_in_float32(dists):
    hr = images(1, side=48)
    sr = hr + 0.2 * (images(0, side=48) - 0.5)
    expected = dists(sr, hr).item()
    with torch.autocast("cpu", torch.bfloat16):
        assert dists(sr, hr).item() == pytest.approx(expected, rel=0.05)


@torch.no_grad()
def test_maps_of_vgg19_are_torchvisions_before_each_relu(tmp_path):
    """From the same file."""
    path = save_vgg19(tmp_path)
    with torch.device("meta"):
        vgg19 = models.vgg19(weights=None)
    vgg19.load_state_dict(torch.load(path), assign=True)
    loss = losses.VGG19Perceptual()
    loss.load(path)
    x = images(0, side=32)

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


def test_vgg19s_distance_is_the_weighted_sum_of_mean_absolute_differences(tmp_path):
    """Whatever their order."""
    loss = losses.VGG19Perceptual(layers={"conv2_1": 0.5, "conv1_2": 3.0})
    loss.load(save_vgg19(tmp_path, ("conv1_1", "conv1_2", "conv2_1")))

    distance = loss(images(0), images(1))

    sr = loss.network(images(0))
    hr = loss.network(images(1))
    of_first = (sr["conv1_2"] - hr["conv1_2"]).abs().mean()
    of_second = (sr["conv2_1"] - hr["conv2_1"]).abs().mean()
    assert_close(distance, 3 * of_first + 0.5 * of_second)


# ------------------------------------------------------------------------------------ adversarial


def softplus(*values):
    """The mean of log(1 + e^x)."""
    return float(np.log1p(np.exp(values)).mean())


REAL = [torch.tensor([[[[2.0, 0.0]]]])]  # logits
FAKE = [torch.tensor([[[[-3.0, 1.0]]]])]


@pytest.mark.parametrize(
    ("kind", "generator", "of_real", "of_fake"),
    [
        # softplus(-x) of real and softplus(x) of fake
        ("vanilla", softplus(3, -1), softplus(-2, 0), softplus(-3, 1)),
        # (x - 1)^2 and x^2
        ("lsgan", ((-3 - 1) ** 2 + 0) / 2, ((2 - 1) ** 2 + 1) / 2, ((-3) ** 2 + 1) / 2),
        # max(1 - x, 0) and max(1 + x, 0); the generator's is -x
        ("hinge", (3 - 1) / 2, (0 + 1) / 2, (0 + 2) / 2),
    ],
)
def test_the_gan_losses_by_hand(kind, generator, of_real, of_fake):
    loss = losses.GAN(kind=kind)
    assert loss.generator(FAKE).item() == pytest.approx(generator)
    assert loss.discriminator(REAL, FAKE).item() == pytest.approx(of_real + of_fake)


@pytest.mark.parametrize("kind", ["vanilla", "lsgan", "hinge"])
def test_maps_of_logits_count_alike_whatever_their_sizes(kind):
    """Else a discriminator of many scales would be judged by its largest map."""
    loss = losses.GAN(kind=kind)
    # FAKE's two logits on a small and a large map.
    maps = [torch.full((1, 1, 1, 1), -3.0), torch.full((1, 1, 3, 3), 1.0)]
    assert_close(loss.generator(maps), loss.generator(FAKE))
    assert_close(loss.discriminator(maps, maps), loss.discriminator(FAKE, FAKE))
