"""LPIPS in latents: size and names, the number of the package, where its weights come from."""

from __future__ import annotations

import warnings

import lpips
import pytest
import torch
from torch import nn
from torchvision import models

from files.weights import fingerprint
from lightning_modules.frozen import sources
from lightning_modules.networks.latent_lpips import (
    LatentDistance,
    LatentLPIPS,
    from_imagenet,
)

SMALL = (4, 6, 8, 8, 8)


def seeded(kind=LatentDistance, **arguments):
    torch.manual_seed(0)
    model = kind(**{"widths": SMALL, **arguments})
    model.keep_positive()
    return model.eval()


def latents(count=2, side=8, channels=4):
    generator = torch.Generator().manual_seed(1)
    return torch.randn(2, count, channels, side, side, generator=generator).unbind(0)


@pytest.fixture(scope="module")
def package():
    """The package's LPIPS, of random weights, changed into one of latents."""
    with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
        warnings.simplefilter("ignore")
        torch.manual_seed(0)
        theirs = lpips.LPIPS(net="vgg", pnet_rand=True, verbose=False).eval()
        for part in theirs.net.modules():
            if isinstance(part, nn.Conv2d):
                nn.init.kaiming_normal_(part.weight)
        kernel = theirs.net.slice1[0].weight.data[:, :1].repeat(1, 4, 1, 1)
        theirs.net.slice1[0].weight = nn.Parameter(kernel)
    for stage in (theirs.net.slice2, theirs.net.slice3, theirs.net.slice4):
        first = next(iter(stage._modules))
        assert isinstance(stage._modules[first], nn.MaxPool2d)
        stage._modules[first] = nn.Identity()
    return theirs


# -------------------------------------------------------------------------------- size, names, sums


@pytest.mark.slow
def test_a_released_file_gives_the_packages_number(package, tmp_path):
    state = {f"module.{name}": tensor for name, tensor in package.state_dict().items()}
    torch.save({"state_dict": state}, tmp_path / "vgg16_sdturbo_lpips.pth")
    model = LatentLPIPS()
    model.load(tmp_path / "vgg16_sdturbo_lpips.pth")
    a, b = latents(side=10)
    package.scaling_layer = nn.Identity()
    with torch.no_grad():
        expected = package(a, b).flatten()
    assert (expected > 0.01).all()
    torch.testing.assert_close(model(a, b), expected, rtol=1e-4, atol=1e-6)


def test_a_gradient_where_nothing_answers():
    """Of places whose features are all 0: no NaN, which a root has there."""
    model, (a, _) = seeded(), latents()
    for part in model.modules():
        if isinstance(part, nn.Conv2d) and part.bias is not None:
            part.bias.data.fill_(-10.0)
    a.requires_grad_()
    model(a, torch.zeros_like(a)).sum().backward()
    assert a.grad.isfinite().all()


def test_weights_of_channels_are_raised_to_zero():
    model = seeded()
    weight = model.lin1.model[1].weight
    weight.data[0, 2:4] = -1.0
    expected = weight.detach().clamp(min=0)
    model.keep_positive()
    assert torch.equal(weight, expected)


# ---------------------------------------------------------------------------- as a part of a loss


def test_it_is_frozen_and_named(tmp_path):
    trained, (a, b) = seeded(), latents()
    torch.save(trained.state_dict(), tmp_path / "distance.pth")
    holder = nn.Module()
    holder.perceptual = model = LatentLPIPS(widths=SMALL)
    model.load(tmp_path / "distance.pth")
    assert not any(parameter.requires_grad for parameter in model.parameters())
    assert torch.equal(model.train()(a.requires_grad_(), b), trained(a, b))
    model(a, b).sum().backward()
    assert a.grad.abs().sum() > 0
    expected = f"distance.pth {fingerprint(trained.state_dict())}"
    assert sources(holder)["perceptual"] == expected


# ------------------------------------------------------------------------------------ its beginning


def test_it_begins_as_lpips_of_images(tmp_path):
    """A latent that has one plane in its first channel is seen as an image's first colour."""
    with torch.random.fork_rng(devices=[]), torch.device("meta"):
        features = models.vgg16(weights=None).features
    features.to_empty(device="cpu")
    for parameter in features.parameters():
        nn.init.normal_(parameter, std=parameter[0].numel() ** -0.5)
    state = {f"features.{k}": v for k, v in features.state_dict().items()}
    torch.save({**state, "classifier.0.bias": torch.zeros(9)}, tmp_path / "vgg16.pth")
    found = from_imagenet(tmp_path / "vgg16.pth", channels=32)
    model = LatentDistance(channels=32)
    model.load_state_dict(found)  # all of it
    assert all((found[f"lin{number}.model.1.weight"] >= 0).all() for number in range(5))
    plane = torch.randn(1, 1, 6, 6)
    expected = features[:2](torch.cat([plane, torch.zeros(1, 2, 6, 6)], 1))
    for channel in (0, 31):
        latent = torch.zeros(1, 32, 6, 6)
        latent[:, channel] = plane
        torch.testing.assert_close(model.net.slice1[:2](latent), expected)
