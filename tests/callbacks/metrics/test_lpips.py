"""LPIPS against the lpips package, both with one randomly initialised network; and its cache."""

from __future__ import annotations

import logging
import warnings
from pathlib import Path
from typing import Any

import lpips
import pytest
import torch
from torch import Tensor, nn
from torchvision import models

from callbacks import weights
from callbacks.metrics.perceptual import LPIPS, FeatureCache, Perceptual, load_features
from tests.callbacks.tiny import Images, Tiny, loader, trainer

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


def loaded(monkeypatch: pytest.MonkeyPatch, net: Any, **arguments: Any) -> LPIPS:
    """Return our metric with that file instead of the published one."""
    name, file, _ = net
    monkeypatch.setattr(weights, "find", {NAMES[name]: file}.get)
    monkeypatch.setattr(weights, "obtain", {NAMES[name]: file}.get)
    metric = LPIPS(name, **arguments)
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
    ours = compute(loaded(monkeypatch, net, round_8bit=False), sr, hr)
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
    metric.border = 5
    inside = compute(metric, sr, hr)
    sr[..., :5, :] = 0
    torch.testing.assert_close(compute(metric, sr, hr), inside)


def test_an_image_does_not_depend_on_its_batch(monkeypatch: pytest.MonkeyPatch, net: Any) -> None:
    metric, (sr, hr) = loaded(monkeypatch, net, cache=0), pair()
    parts = [compute(metric, *one) for one in zip(sr.split(1), hr.split(1), strict=True)]
    torch.testing.assert_close(compute(metric, sr, hr), torch.cat(parts), rtol=1e-5, atol=0)


def test_the_package_computes_and_fetches_nothing(
    monkeypatch: pytest.MonkeyPatch, net: Any
) -> None:
    def download(*_: Any, **__: Any) -> None:
        raise AssertionError("fetched")

    monkeypatch.setattr(torch.hub, "download_url_to_file", download)
    network = loaded(monkeypatch, net).network
    assert network is not None
    assert isinstance(network.model, lpips.LPIPS)
    theirs = reference(net).state_dict()
    assert network.model.state_dict().keys() == theirs.keys()
    for name, tensor in network.model.state_dict().items():
        assert torch.equal(tensor, theirs[name]), name


def test_loading_uses_no_global_random_number(monkeypatch: pytest.MonkeyPatch, net: Any) -> None:
    before = torch.get_rng_state()
    loaded(monkeypatch, net)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_loss_in_training_drops_nothing(monkeypatch: pytest.MonkeyPatch, net: Any) -> None:
    name, file, _ = net
    monkeypatch.setattr(weights, "obtain", {NAMES[name]: file}.get)
    loss, (sr, hr) = Perceptual(name), pair(2)
    loss.load()
    model = nn.ModuleList([loss])
    expected = model.eval()[0](sr, hr)
    assert torch.equal(model.train()[0](sr, hr), expected)


def test_as_a_loss_it_has_the_package_s_gradient(monkeypatch: pytest.MonkeyPatch, net: Any) -> None:
    name, file, _ = net
    monkeypatch.setattr(weights, "obtain", {NAMES[name]: file}.get)
    loss, (sr, hr) = Perceptual(name), pair(2)
    with pytest.raises(RuntimeError, match="before `load` was called"):
        loss(sr, hr)
    loss.load()
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


def test_no_loss_without_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weights, "obtain", lambda name: None)
    with pytest.raises(FileNotFoundError, match=r"lacks weights: vgg16-397923af\.pth is neither"):
        Perceptual().load()


# -------------------------------------------------------------------------------------------- a run


def test_numbers_of_a_run_with_and_without_cache(
    monkeypatch: pytest.MonkeyPatch, net: Any, tmp_path: Path
) -> None:
    data = Images(3, side=40)
    metrics = [
        loaded(monkeypatch, net, cache=size, label=f"lpips_{size}", control=True)
        for size in (0, 512)
    ]
    run = trainer(tmp_path, *metrics)
    values = []
    for _ in range(2):
        run.validate(Tiny(), loader(data), verbose=False)
        values += [metric.records[0]["value"] for metric in metrics]
    assert values == pytest.approx([values[0]] * 4, rel=1e-6)
    record = metrics[0].records[0]
    assert record["n"] == 3
    assert record["protocol"]["net"] == net[0]
    assert record["protocol"]["sha256"] == weights.digest_of(net[1])
    assert metrics[0].control_records[0]["value"] != record["value"]
    assert len(metrics[0]._references.found) == 0
    assert len(metrics[1]._references.found) == 3


def test_a_bad_pixel_names_its_image_and_spoils_no_other(
    monkeypatch: pytest.MonkeyPatch,
    net: Any,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    metric, (sr, hr) = loaded(monkeypatch, net), pair()
    expected = compute(metric, sr, hr)
    for value in (torch.nan, torch.inf, -torch.inf):
        sr[1, 2, 30, 40] = value
        found = compute(metric, sr, hr)
        assert not found[1].isfinite()
        torch.testing.assert_close(found[[0, 2]], expected[[0, 2]], rtol=1e-5, atol=0)

    class Breaks(Tiny):
        def validation_step(self, batch: Any, *_: Any) -> dict[str, Tensor]:
            sr = batch["hr"].clone()
            if "tiny/01" in batch["key"]:
                sr[batch["key"].index("tiny/01"), 0, 7, 7] = torch.nan
            return {"sr": sr}

    with caplog.at_level(logging.WARNING):
        trainer(tmp_path, metric).validate(Breaks(), loader(Images(3, side=40)), verbose=False)
    assert "lpips is not finite for 1 of 3 images of tiny" in caplog.text
    assert "tiny/01 (" in caplog.text


# ---------------------------------------------------------------------------------------- the cache


class Counts(nn.Module):
    """Return sums of images, and count the calls."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def forward(self, x: Tensor) -> list[Tensor]:
        self.calls += 1
        return [x.sum((1, 2, 3)), x * 2]


def test_features_are_kept_while_pixels_stay_the_same() -> None:
    kept, network, images = FeatureCache(10**6), Counts(), pair()[1]
    first = kept.get(images, network)
    again = kept.get(images[[2, 0]], network)  # in any order
    assert network.calls == 1
    for a, b in zip(first, again, strict=True):
        assert torch.equal(a[[2, 0]], b)
    images[0, 0, 0, 0] += 0.5
    assert torch.equal(kept.get(images, network)[0], images.sum((1, 2, 3)))
    assert network.calls == 2
    turned = images.transpose(2, 3).contiguous().view_as(images)
    kept.get(torch.cat([turned]), network)
    assert network.calls == 3


def test_what_has_no_room_is_computed_again() -> None:
    network, images = Counts(), pair(4)[1]
    one = 4 + images[0].nbytes
    kept = FeatureCache(2 * one)
    for _ in range(3):
        for image in images.split(1):
            assert torch.equal(kept.get(image, network)[0], image.sum((1, 2, 3)))
    assert len(kept.found) == 2
    assert network.calls == 4 + 2 + 2  # the first two stay


def test_what_an_evaluation_did_not_use_is_dropped() -> None:
    kept, network, images = FeatureCache(10**6), Counts(), pair(4)[1]
    kept.get(images, network)
    kept.begin()
    kept.get(images[:2], network)
    assert len(kept.found) == 4
    kept.begin()
    assert len(kept.found) == 2
    assert network.calls == 1


def test_the_room_of_what_is_dropped_is_free_again() -> None:
    network, images = Counts(), pair(6)[1]
    kept = FeatureCache(2 * (4 + images[0].nbytes))
    for few in (images[:2], images[2:4], images[4:], images[4:]):
        kept.begin()
        kept.get(few, network)
    assert network.calls == 3  # the first two were dropped when the third evaluation began


class Weighed(Tensor):
    """Features that count reads of their size."""

    looked = 0

    @property
    def nbytes(self) -> int:
        Weighed.looked += 1
        return self.numel() * self.element_size()


def test_many_images_are_not_weighed_again_for_each_other() -> None:
    kept = FeatureCache(10**6)
    for number in range(50):
        kept.get(torch.full((1, 3, 2, 2), float(number)), lambda x: [x.as_subclass(Weighed)])
    assert len(kept.found) == 50
    assert Weighed.looked <= 3 * 50


# --------------------------------------------------------------------------------------- what fails


def test_images_too_small(monkeypatch: pytest.MonkeyPatch, net: Any) -> None:
    metric = loaded(monkeypatch, net)
    sr, hr = pair(1, (31, 60))
    with pytest.raises(ValueError, match="60x31 pixels are fewer than 32x32 pixels"):
        compute(metric, sr, hr)
    metric.border = 2
    with pytest.raises(
        ValueError, match="60x35 pixels are fewer than 32x32 pixels without the border of 2"
    ):
        compute(metric, *pair(1, (35, 60)))


def test_without_weights_there_is_no_number(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(weights, "obtain", lambda name: None)
    for name in BUILD:
        caplog.clear()
        metric = LPIPS(name)
        run = trainer(tmp_path, metric)
        with caplog.at_level(logging.WARNING):
            run.validate(Tiny(), loader(Images(3, side=40)), verbose=False)
        assert metric.records == []
        assert "val/lpips" not in run.callback_metrics
        assert f"lpips is off, no number will appear: {file_of(name)} is neither in" in caplog.text
    with pytest.raises(FileNotFoundError, match=r"strict_weights is set.*alexnet-owt"):
        trainer(tmp_path, LPIPS(strict_weights=True)).validate(Tiny(), loader(), verbose=False)


def file_of(name: str) -> str:
    return weights.entry_of(NAMES[name])["file"]


def test_a_file_of_another_network(tmp_path: Path, net: Any) -> None:
    other = "vgg16" if net[0] == "alex" else "alexnet"
    with pytest.raises(ValueError, match=f"has no weights of {other}"):
        load_features(other, net[1])
    (tmp_path / "junk.pth").write_bytes(b"junk")
    with pytest.raises(ValueError, match=r"junk.pth has no weights of alexnet"):
        load_features("alexnet", tmp_path / "junk.pth")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"net": "resnet"}, "`net` of LPIPS is 'resnet'; expected one of alex, vgg, squeeze"),
        ({"border": -1}, "`border` of LPIPS is -1"),
        ({"cache": -1}, "`cache` of LPIPS is -1"),
    ],
)
def test_bad_arguments(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LPIPS(**arguments)
