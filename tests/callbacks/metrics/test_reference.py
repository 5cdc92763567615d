"""References: computed, kept and refused; metrics that compare with them."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from callbacks.evaluation import MetricProtocol
from callbacks.metrics import sets as module
from callbacks.metrics.sets import content_hash, find_reference
from tests.callbacks.metrics import test_sets
from tests.callbacks.random_inception import inception, inception_file
from tests.callbacks.tiny import Tiny, loader, outputs, trainer

__all__ = ["inception", "inception_file"]


class Color(test_sets.Color):
    """Mean colours, of one of two protocols."""

    def __init__(self, kind: str = "mean", reference: str | None = None) -> None:
        super().__init__(reference=reference)
        self.kind = kind

    def protocol(self) -> MetricProtocol:
        return {**super().protocol(), "kind": self.kind}


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


def test_features_of_each_image_by_name(folder: Path) -> None:
    found = find_reference(Color(), str(folder))
    assert found.name == "real"
    files = sorted(folder.rglob("*.png"), key=lambda p: p.relative_to(folder).as_posix())
    means = [np.asarray(Image.open(p)).mean((0, 1)) / 255 for p in files]
    assert np.allclose(found.features, means, atol=1e-6)


def test_computed_once_for_the_same_content(folder: Path, tmp_path: Path) -> None:
    metric, moved = Color(), tmp_path / "elsewhere"
    find_reference(metric, str(folder))
    folder.rename(moved)
    find_reference(metric, str(moved))
    assert sum(metric.asked) == 11
    other = Color("other")  # of another protocol
    find_reference(other, str(moved))
    assert sum(other.asked) == 11
    Image.new("RGB", (32, 40)).save(moved / "3.png")
    find_reference(metric, str(moved))
    assert sum(metric.asked) == 22


def test_the_hash_knows_names_and_bytes(tmp_path: Path) -> None:
    for name, text in {"a": "1", "b": "2", "c": "1"}.items():
        (tmp_path / name).write_text(text)
    one, two, same = (tmp_path / name for name in "abc")
    whole = content_hash([("x", one), ("y", two)])
    assert content_hash([("y", two), ("x", same)]) == whole
    assert content_hash([("x", two), ("y", one)]) != whole
    assert content_hash([("x", one)]) != whole


@pytest.mark.parametrize("pickled", [False, True])
def test_a_damaged_file_is_made_again(
    folder: Path, cache: Path, caplog: Any, pickled: bool
) -> None:
    first = find_reference(Color(), str(folder))
    (path,) = cache.iterdir()
    if pickled:
        np.save(path, np.array([{"a": 1}], dtype=object))
    else:
        path.write_bytes(path.read_bytes()[:-40])
    with caplog.at_level(logging.WARNING):
        again = find_reference(Color(), str(folder))
    assert np.array_equal(first.features, again.features)
    assert "computed again" in caplog.text
    assert list(cache.iterdir()) == [path]  # no half-written file is left


def test_all_broken_images_are_named(folder: Path, cache: Path) -> None:
    (folder / "1.png").write_bytes((folder / "1.png").read_bytes()[:100])
    (folder / "more" / "9.png").write_text("no image")
    with pytest.raises(ValueError, match=r"1\.png: the file is truncated") as error:
        find_reference(Color(), str(folder))
    assert "9.png: not an image" in str(error.value)
    assert not cache.exists()


def test_images_of_one_name(folder: Path) -> None:
    Image.new("RGB", (8, 8)).save(folder / "1.jpg")
    with pytest.raises(ValueError, match=r"1\.jpg and .*1\.png would both have the key '1'"):
        find_reference(Color(), str(folder))


# --------------------------------------------------------------------------------- in a metric


def expected(folder: Path) -> float:
    hr = np.mean([np.asarray(Image.open(p)).mean((0, 1)) / 255 for p in folder.rglob("*.png")], 0)
    sr, _ = outputs()
    return float(np.linalg.norm(sr.mean((0, 2, 3)).numpy() - hr))


def test_outputs_against_other_images(tmp_path: Path, folder: Path) -> None:
    metric = Color(reference=str(folder))
    trainer(tmp_path, metric).validate(Tiny(), loader(), verbose=False)
    record = metric.records[0]
    assert record["value"] == pytest.approx(expected(folder), rel=1e-5)
    assert record["n"] == 7
    assert record["protocol"]["reference_n"] == 11
    assert str(record["protocol"]["reference"]).startswith("real, as they are, ")
    assert sum(metric.asked) == 18
    Image.new("RGB", (32, 40)).save(folder / "3.png")  # seen by the next evaluation
    trainer(tmp_path, metric).validate(Tiny(), loader(), verbose=False)
    assert metric.records[0]["value"] == pytest.approx(expected(folder), rel=1e-5)
