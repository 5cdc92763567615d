"""References: computed, cached, shared and refused; metrics that compare with them."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from callbacks.metrics import sets as module
from callbacks.metrics.sets import (
    SetMetric,
    cached_reference,
    centre,
    content_hash,
    find_reference,
    load_reference,
    main,
)
from callbacks.tensorboard import MetricProtocol
from tests.callbacks.random_inception import inception, inception_file
from tests.callbacks.tiny import Images, Tiny, loader, trainer

__all__ = ["inception", "inception_file"]


class Color(SetMetric):
    """Mean colours, with a count of computed images."""

    name = "color"

    def __init__(self, kind: str = "mean", reference: str | None = None) -> None:
        super().__init__(reference=reference)
        self.kind, self.asked = kind, 0

    def protocol(self) -> MetricProtocol:
        return {"implementation": "test", "kind": self.kind}

    def features(self, images: Tensor, batch: Any) -> Tensor:
        self.asked += len(images)
        return images.mean((2, 3))

    def distance(self, sr: Tensor, hr: Tensor) -> float:
        return float((sr.mean(0) - hr.mean(0)).norm())


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(module, "CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Eleven images of two sizes, two of them deeper."""
    place = tmp_path / "real"
    (place / "more").mkdir(parents=True)
    generator = np.random.default_rng(0)
    for i in range(11):
        size = (40, 32, 3) if i % 3 else (36, 48, 3)
        name = f"more/{i}.png" if i > 8 else f"{i}.png"
        Image.fromarray(generator.integers(0, 256, size, np.uint8)).save(place / name)
    return place


def test_features_of_each_image_by_name(folder: Path, cache: Path) -> None:
    metric = Color()
    path, found = cached_reference([folder], metric)
    assert path.parent == cache
    assert (found.name, found.prepared) == ("real", "as they are")
    files = sorted(folder.rglob("*.png"), key=lambda p: p.relative_to(folder).as_posix())
    means = [np.asarray(Image.open(p)).mean((0, 1)) / 255 for p in files]
    assert np.allclose(found.features, means, atol=1e-6)


def test_computed_once_for_the_same_content(folder: Path, tmp_path: Path) -> None:
    metric = Color()
    first, _ = cached_reference([folder], metric)
    assert metric.asked == 11
    folder.rename(tmp_path / "elsewhere")
    assert cached_reference([tmp_path / "elsewhere"], metric)[0] == first
    assert metric.asked == 11
    assert cached_reference([tmp_path / "elsewhere"], Color("other"))[0] != first
    assert cached_reference([tmp_path / "elsewhere"], metric, side=20)[0] != first
    Image.new("RGB", (32, 40)).save(tmp_path / "elsewhere" / "3.png")
    assert cached_reference([tmp_path / "elsewhere"], metric)[0] != first


def test_the_hash_knows_names_and_bytes(tmp_path: Path) -> None:
    for name, text in {"a": "1", "b": "2", "c": "1"}.items():
        (tmp_path / name).write_text(text)
    one, two, same = (tmp_path / name for name in "abc")
    whole = content_hash([("x", one), ("y", two)])
    assert content_hash([("y", two), ("x", same)]) == whole
    assert content_hash([("x", two), ("y", one)]) != whole
    assert content_hash([("x", one)]) != whole


def test_others_do_not_wait_for_many_images(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "is_distributed", lambda: True)
    monkeypatch.setattr(module, "MANY", 10)
    with pytest.raises(ValueError, match=r"11 images, for which all .*main.py reference"):
        find_reference(Color(), str(folder))


def test_a_damaged_file_of_the_cache_is_made_again(folder: Path, caplog: Any) -> None:
    metric = Color()
    path, first = cached_reference([folder], metric)
    path.write_bytes(path.read_bytes()[:-40])
    with caplog.at_level(logging.WARNING):
        _, again = cached_reference([folder], metric)
    assert np.array_equal(first.features, again.features)
    assert "computed again" in caplog.text
    there = [p for p in path.parent.iterdir() if p.is_file()]
    assert there == [path]  # no half-written file is left


def test_all_broken_images_are_named(folder: Path, cache: Path) -> None:
    (folder / "1.png").write_bytes((folder / "1.png").read_bytes()[:100])
    (folder / "more" / "9.png").write_text("no image")
    with pytest.raises(ValueError, match=r"1\.png cannot be read") as error:
        cached_reference([folder], Color())
    assert "9.png cannot be read" in str(error.value)
    assert not cache.exists()


def test_images_of_one_name(folder: Path) -> None:
    Image.new("RGB", (8, 8)).save(folder / "1.jpg")
    with pytest.raises(ValueError, match=r"1\.png and .*1\.jpg have one name, '1'; rename one"):
        cached_reference([folder], Color())


def test_the_centre_is_cut_out() -> None:
    image = torch.arange(60.0).expand(1, 3, 30, 60) / 60
    cut = centre(image, 30)
    assert torch.equal(cut, image[..., 15:45])
    assert centre(image, 10).shape == (1, 3, 10, 10)
    assert centre(torch.rand(1, 3, 33, 31), 31).shape == (1, 3, 31, 31)


# --------------------------------------------------------------------------------- in a metric


def expected(folder: Path) -> float:
    hr = np.mean([np.asarray(Image.open(p)).mean((0, 1)) / 255 for p in folder.rglob("*.png")], 0)
    sr = []
    for sample in (Images()[i] for i in range(7)):
        with torch.no_grad():
            image = Tiny().eval()(sample["lr"][None], (24, 24)).clamp(0, 1)
        sr.append(image.mean((2, 3))[0].numpy())
    return float(np.linalg.norm(np.mean(sr, 0) - hr))


@pytest.mark.parametrize("kind", ["folder", "file"])
def test_outputs_against_other_images(tmp_path: Path, folder: Path, kind: str) -> None:
    place = folder
    if kind == "file":
        assert main([str(folder), "--metric", f"{__name__}.Color", "--out", f"{folder}.npz"]) == 0
        place = folder.with_name("real.npz")
    metric = Color(reference=str(place))
    trainer(tmp_path, metric).validate(Tiny(), loader(), verbose=False)
    record = metric.records[0]
    assert record["value"] == pytest.approx(expected(folder), rel=1e-5)
    assert record["n"] == 7
    assert record["protocol"]["reference_n"] == 11
    assert str(record["protocol"]["reference"]).startswith("real, as they are, ")
    assert metric.asked == (7 if kind == "file" else 18)


def test_another_protocol_is_refused(tmp_path: Path, folder: Path) -> None:
    path, _ = cached_reference([folder], Color("other"))
    message = r"made under another protocol: it has kind 'other'; the metric here has kind 'mean'"
    run = trainer(tmp_path, Color(reference=str(path)))
    with pytest.raises(ValueError, match=message):
        run.validate(Tiny(), loader(), verbose=False)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"no archive", "is no file of reference features"),
        (b"", "is no file of reference features"),
        (None, "where there is neither a folder of images nor a file"),
    ],
)
def test_what_is_no_reference(tmp_path: Path, content: bytes | None, message: str) -> None:
    path = tmp_path / "a.npz"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ValueError, match=message):
        trainer(tmp_path, Color(reference=str(path))).validate(Tiny(), loader(), verbose=False)


def test_a_file_that_was_changed(folder: Path) -> None:
    path, found = cached_reference([folder], Color())
    with np.load(path) as content:
        about = content["about"]
    np.savez(path, features=found.features + 1, about=about)
    with pytest.raises(ValueError, match="its features are not those that were written"):
        load_reference(path)
    np.savez(path, mu=found.features)  # as clean-fid's statistics are
    with pytest.raises(ValueError, match="is no file of reference features"):
        load_reference(path)


def test_pickles_are_not_read(folder: Path, tmp_path: Path) -> None:
    path, _ = cached_reference([folder], Color())
    np.savez(path, features=np.array([{"a": 1}], dtype=object), about="{}")
    with pytest.raises(ValueError, match="is no file of reference features"):
        load_reference(path)


def test_one_image_is_no_reference(tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    Image.new("RGB", (40, 40)).save(tmp_path / "one" / "a.png")
    metric = Color(reference=str(tmp_path / "one"))
    with pytest.raises(ValueError, match="has 1 images; it needs at least 2"):
        trainer(tmp_path, metric).validate(Tiny(), loader(), verbose=False)


# -------------------------------------------------------------------------------- the command


def test_the_command_says_where_the_file_is(folder: Path, tmp_path: Path, caplog: Any) -> None:
    caplog.set_level(logging.INFO)
    command = [str(folder), "--metric", "callbacks.KIDThumb", "--set", "side=4"]
    out = tmp_path / "out" / "thumbs.npz"
    assert main([*command, "--side", "32", "--out", str(out)]) == 0
    said = f"11 images (shorter side to 32, centre 32x32) for callbacks.KIDThumb: {out}"
    assert said in caplog.text
    assert load_reference(out).features.shape == (11, 48)
    assert f"init_args: {{reference: {out}}}" in caplog.text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--metric", "callbacks.PSNR"], "features_protocol"),
        (["--metric", "callbacks.nothing.FID"], "nothing"),
        (["--metric", "callbacks.SWD", "--set", "colour=y"], "colour"),
    ],
)
def test_what_the_command_refuses(
    folder: Path, caplog: Any, arguments: list[str], message: str
) -> None:
    assert main([str(folder), *arguments]) == 2
    assert message in caplog.text
