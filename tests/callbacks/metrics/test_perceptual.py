"""LPIPS against the lpips package, both with one randomly initialised network."""

from __future__ import annotations

import warnings

import lpips
import pytest
import torch
from torch import nn
from torchvision import models

from callbacks.metrics.perceptual import LPIPS, Perceptual
from tests.make import keys, noisy, uniform

BUILD = {"alex": models.alexnet, "squeeze": models.squeezenet1_1, "vgg": models.vgg16}
PUBLISHED = {"alex": "alexnet", "squeeze": "squeezenet", "vgg": "vgg16"}


class Network:
    """A network of random weights, as torchvision publishes it and as the package has it."""

    def __init__(self, name, folder):
        self.name = name
        self.file = folder / f"{name}.pth"
        with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.manual_seed(0)
            # Without the classifier's 120 million random weights, which do not matter.
            with torch.device("meta"):
                features = BUILD[name](weights=None).features
            features.to_empty(device="cpu")
            for parameter in features.parameters():
                nn.init.normal_(parameter, std=parameter[0].numel() ** -0.5)
            self.package = lpips.LPIPS(net=name, pnet_rand=True, verbose=False)
        state = features.state_dict()
        names = self.package.net.state_dict()
        self.package.net.load_state_dict({key: state[key.split(".", 1)[1]] for key in names})
        published = {f"features.{key}": value for key, value in state.items()}
        torch.save(published | {"classifier.1.bias": torch.zeros(9)}, self.file)

    def loaded(self, cls, monkeypatch):
        """Our metric, or loss, with this file instead of the published one."""
        files = {PUBLISHED[self.name]: self.file}
        for module in ("base", "perceptual"):
            monkeypatch.setattr(f"callbacks.metrics.{module}.locate", files.__getitem__)
        metric = cls(self.name)
        metric.load()
        return metric


# VGG is as large as the others together ten times, and run like them.
@pytest.fixture(
    scope="module", params=["alex", "squeeze", pytest.param("vgg", marks=pytest.mark.slow)]
)
def network(request, tmp_path_factory):
    return Network(request.param, tmp_path_factory.mktemp("weights"))


@pytest.mark.parametrize("size", [pytest.param((64, 80), marks=pytest.mark.slow), (33, 45)])
def test_distances_are_the_packages(network, monkeypatch, size):
    hr = uniform(2, 3, *size) * 2 - 1
    sr = uniform(2, 3, *size, seed=1) * 2 - 1
    ours = network.loaded(LPIPS, monkeypatch).network

    distances = ours.distances(ours(sr), ours(hr))

    with torch.no_grad():
        expected = network.package(sr, hr).flatten()
    torch.testing.assert_close(distances, expected, rtol=1e-6, atol=0)
    assert (distances > 0).all()


def test_images_are_rounded_as_those_of_files(network, monkeypatch):
    hr = uniform(3, 3, 33, 45)
    sr = noisy(hr, 0.1)

    values = network.loaded(LPIPS, monkeypatch).compute(sr, hr, keys(3))

    files = [(x * 255).round() / 255 * 2 - 1 for x in (sr, hr)]
    with torch.no_grad():
        expected = network.package(*files).flatten()
    torch.testing.assert_close(values, expected, rtol=1e-5, atol=0)


def test_as_a_loss_it_has_the_packages_gradient(network, monkeypatch):
    hr = uniform(2, 3, 64, 80)
    sr = noisy(hr, 0.1).requires_grad_()
    theirs = sr.detach().clone().requires_grad_()
    loss = network.loaded(Perceptual, monkeypatch).train()  # in which nothing is dropped

    value = loss(sr, hr)
    value.sum().backward()

    expected = network.package(theirs * 2 - 1, hr * 2 - 1).flatten()
    expected.sum().backward()
    torch.testing.assert_close(value, expected, rtol=1e-5, atol=0)
    torch.testing.assert_close(sr.grad, theirs.grad, rtol=1e-3, atol=1e-6)
    assert not any(parameter.requires_grad for parameter in loss.parameters())
