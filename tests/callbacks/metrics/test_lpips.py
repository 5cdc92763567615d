"""LPIPS against the lpips package, both with one randomly initialised network; and its cache."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import lpips
import pytest
import torch
from torch import Tensor, nn
from torchvision import models

from callbacks.metrics.perceptual import LPIPS, Perceptual

BUILD = {"alex": models.alexnet, "squeeze": models.squeezenet1_1, "vgg": models.vgg16}
NAMES = {"alex": "alexnet", "squeeze": "squeezenet", "vgg": "vgg16"}
PACKAGES: dict[Path, lpips.LPIPS] = {}  # by their files


# VGG is as large as the others together ten times, and run like them.
NETS = [pytest.param(net, marks=pytest.mark.slow if net == "vgg" else ()) for net in BUILD]


@pytest.fixture(scope="module", params=NETS)
def net(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A network's name, a file of random weights as torchvision publishes it, and its features."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        # Without the classifier's 120 million random weights, which do not matter.
        with torch.device("meta"):
            features = BUILD[request.param](weights=None).features
        features.to_empty(device="cpu")
        for parameter in features.parameters():
            nn.init.normal_(parameter, std=parameter[0].numel() ** -0.5)
    state = {f"features.{k}": v for k, v in features.state_dict().items()}
    file = tmp_path_factory.mktemp("weights") / f"{request.param}.pth"
    torch.save({**state, "classifier.1.bias": torch.zeros(9)}, file)
    return request.param, file, features


def loaded(monkeypatch: pytest.MonkeyPatch, net: Any, kind: Any = LPIPS, **arguments: Any) -> Any:
    """Return our metric, or loss, with that file instead of the published one."""
    name, file, _ = net
    for module in ("base", "perceptual"):
        patched = f"callbacks.metrics.{module}.locate"
        monkeypatch.setattr(patched, {NAMES[name]: file}.__getitem__)
    metric = kind(name, **arguments)
    metric.load()
    return metric


def reference(net: Any) -> lpips.LPIPS:
    """Return the package's network with the same weights, made once: it draws all of VGG's."""
    name, file, features = net
    if file in PACKAGES:
        return PACKAGES[file]
    with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
        warnings.simplefilter("ignore")
        theirs = PACKAGES[file] = lpips.LPIPS(net=name, pnet_rand=True, verbose=False)
    state = features.state_dict()
    theirs.net.load_state_dict({k: state[k.split(".", 1)[1]] for k in theirs.net.state_dict()})
    return theirs


def pair(count: int = 3, size: tuple[int, int] = (64, 80)) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    hr = torch.rand(count, 3, *size, generator=generator)
    return (hr + 0.1 * torch.randn(hr.shape, generator=generator)).clamp(0, 1), hr


def compute(metric: LPIPS, sr: Tensor, hr: Tensor) -> Tensor:
    batch: Any = {"key": [f"a/{i}" for i in range(len(sr))]}
    return metric.compute(sr, hr, batch)


# ---------------------------------------------------------------------------- the reference library


@pytest.mark.parametrize("net", NETS, indirect=True)
@pytest.mark.parametrize("size", [pytest.param((64, 80), marks=pytest.mark.slow), (33, 45)])
def test_as_the_package(monkeypatch: pytest.MonkeyPatch, net: Any, size: tuple[int, int]) -> None:
    sr, hr = pair(2, size)
    with torch.no_grad():
        expected = reference(net)(sr * 2 - 1, hr * 2 - 1).flatten()
    network = loaded(monkeypatch, net).network
    ours = network.distances(network(sr * 2 - 1), network(hr * 2 - 1))
    torch.testing.assert_close(ours, expected, rtol=1e-6, atol=0)
    assert (ours > 0).all()


def test_rounded_images_are_those_of_files(monkeypatch: pytest.MonkeyPatch, net: Any) -> None:
    if net[0] != "alex":
        pytest.skip("the same for each network")
    sr, hr = pair()
    saved = [(x * 255).round() / 255 for x in (sr, hr)]
    with torch.no_grad():
        expected = reference(net)(saved[0] * 2 - 1, saved[1] * 2 - 1).flatten()
    metric = loaded(monkeypatch, net)
    torch.testing.assert_close(compute(metric, sr, hr), expected, rtol=1e-5, atol=0)


def test_a_loss_in_training_drops_nothing(monkeypatch: pytest.MonkeyPatch, net: Any) -> None:
    loss, (sr, hr) = loaded(monkeypatch, net, Perceptual), pair(2)
    model = nn.ModuleList([loss])
    expected = model.eval()[0](sr, hr)
    assert torch.equal(model.train()[0](sr, hr), expected)


def test_as_a_loss_it_has_the_package_s_gradient(monkeypatch: pytest.MonkeyPatch, net: Any) -> None:
    loss, (sr, hr) = loaded(monkeypatch, net, Perceptual), pair(2)
    found = []
    for distance, scaled in ((loss, False), (reference(net), True)):
        image = sr.clone().requires_grad_()
        a, b = (image * 2 - 1, hr * 2 - 1) if scaled else (image, hr)
        value = distance(a, b).flatten()
        value.sum().backward()
        found.append((value.detach(), image.grad))
    torch.testing.assert_close(*(value for value, _ in found), rtol=1e-5, atol=0)
    torch.testing.assert_close(*(grad for _, grad in found), rtol=1e-3, atol=1e-6)
    assert not any(p.requires_grad or p.grad is not None for p in loss.parameters())
