"""References: computed, cached, shared and refused; metrics that compare with them."""

from __future__ import annotations

import logging
import os
import re
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from callbacks.metrics import sets as module
from callbacks.metrics.consistency import Memorised
from callbacks.metrics.fid import FID, KID, KIDThumb
from callbacks.metrics.sets import (
    SetMetric,
    cached_reference,
    centre,
    content_hash,
    find_reference,
    load_reference,
    main,
    save_reference,
)
from callbacks.metrics.swd import SWD
from callbacks.tensorboard import MetricProtocol
from tests.callbacks.metrics.test_sets import OneThread, Save, Sharded
from tests.callbacks.random_inception import inception, inception_file
from tests.callbacks.tiny import Double, Images, NoHR, Tiny, loader, trainer

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


def settle(folder: Path) -> None:
    """Give images an old time: they do not seem to be changing."""
    for path in folder.rglob("*.png"):
        os.utime(path, (10**9, 10**9))


def test_bytes_are_read_once_while_sizes_and_times_stay(
    folder: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = []

    def counted(images: Any) -> str:
        read.append(content_hash(images))
        return read[-1]

    monkeypatch.setattr(module, "content_hash", counted)
    settle(folder)
    for _ in range(3):
        cached_reference([folder], Color())
    assert len(read) == 1
    os.utime(folder / "3.png", (10**9, 10**9 + 1))  # as if it had been changed
    cached_reference([folder], Color())
    assert len(read) == 2
    for text in ("", "0" * 31, "\xe9"):  # cut off, or something else
        for kept in (cache / "contents").iterdir():
            kept.write_bytes(text.encode("latin-1"))
        cached_reference([folder], Color())
    assert len(read) == 5
    assert len(set(read)) == 1
    # Newer than a disk's time resolution: another change would not be noticed.
    later = time.time() + 3600
    os.utime(folder / "3.png", (later, later))
    for _ in range(2):
        cached_reference([folder], Color())
    assert len(read) == 7


def test_a_hash_that_cannot_be_kept_is_no_error(folder: Path, cache: Path) -> None:
    settle(folder)
    cache.mkdir()
    (cache / "contents").write_text("a file, where the folder should be")
    assert len(cached_reference([folder], Color())[1].features) == 11


def waited_for(metric: SetMetric, place: Path, key: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Find references while other processes wait, which give up after eleven images."""
    monkeypatch.setattr(module, "is_distributed", lambda: True)
    monkeypatch.setattr(module, "MANY", 10)
    return find_reference(metric, str(place), key)


def test_others_do_not_wait_for_many_images(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settle(folder)
    metric = KIDThumb(reference=str(folder))
    with pytest.raises(ValueError, match=r"`reference` of KIDThumb is .* 11 images") as refused:
        waited_for(metric, folder, "reference", monkeypatch)
    [command] = re.findall(r"`python main.py reference (.*?)`", str(refused.value))
    assert main(command.split()) == 0
    assert len(waited_for(metric, folder, "reference", monkeypatch).features) == 11


def test_others_do_not_wait_for_training_images(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settle(folder)
    metric = Memorised(str(folder))
    with pytest.raises(ValueError, match=r"`training` of Memorised is .*start again") as refused:
        waited_for(metric, folder, "training", monkeypatch)
    [command] = re.findall(r"`python main.py reference (.*?)`", str(refused.value))
    assert command.endswith("--metric callbacks.Memorised --set training=none")
    assert main(command.split()) == 0
    assert len(waited_for(metric, folder, "training", monkeypatch).features) == 11


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


def test_no_hr_is_needed(tmp_path: Path, folder: Path) -> None:
    metric = Color(reference=str(folder))
    trainer(tmp_path, metric).validate(Double(), loader(NoHR()), verbose=False)
    assert metric.records[0]["value"] == pytest.approx(expected(folder), rel=1e-5)


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


def test_a_variable_in_the_place(folder: Path, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setenv("ENLARGER_REFERENCE", str(folder))
    metric = Color(reference="$ENLARGER_REFERENCE")
    trainer(tmp_path, metric).validate(Tiny(), loader(), verbose=False)
    assert metric.records[0]["protocol"]["reference_n"] == 11
    monkeypatch.delenv("ENLARGER_REFERENCE")
    run = trainer(tmp_path, Color(reference="$ENLARGER_REFERENCE"))
    with pytest.raises(ValueError, match="environment variable ENLARGER_REFERENCE is not set"):
        run.validate(Tiny(), loader(), verbose=False)


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


def test_a_failed_write_leaves_nothing(folder: Path, tmp_path: Path, monkeypatch: Any) -> None:
    _, found = cached_reference([folder], Color())

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", full)
    with pytest.raises(OSError, match="No space"):
        save_reference(tmp_path / "place" / "a.npz", found)
    assert list((tmp_path / "place").iterdir()) == []


@pytest.mark.slow
def test_one_file_serves_fid_and_kid(inception: Path, folder: Path, tmp_path: Path) -> None:
    few = [str(folder / f"{i}.png") for i in range(3)]
    assert main([*few, "--out", str(tmp_path / "a.npz")]) == 0
    metrics = [FID(reference=str(tmp_path / "a.npz")), KID(reference=str(tmp_path / "a.npz"))]
    trainer(tmp_path, *metrics).validate(Tiny(), loader(Images(2)), verbose=False)
    assert all(m.records[0]["protocol"]["reference_n"] == 3 for m in metrics)
    other = FID("torch-fidelity", reference=str(tmp_path / "a.npz"))
    with pytest.raises(ValueError, match=r"it has preset 'clean-fid'.*here has preset 'torch-fid"):
        trainer(tmp_path, other).validate(Tiny(), loader(Images(3)), verbose=False)


@pytest.mark.parametrize("kind", [SWD, KIDThumb])
def test_metrics_without_weights(kind: Any, folder: Path, tmp_path: Path) -> None:
    metric = kind(reference=str(folder))
    trainer(tmp_path, metric).validate(Tiny(), loader(Images(side=32)), verbose=False)
    assert metric.records[0]["value"] > 0


@pytest.mark.distributed
def test_two_processes(folder: Path, tmp_path: Path) -> None:
    found = []
    for world in (1, 2):
        place = tmp_path / str(world)
        place.mkdir()
        several = {"devices": world, "strategy": "ddp_fork"} if world > 1 else {}
        metric = Color(reference=str(folder))
        trainer(place, OneThread(), metric, Save(), **several).test(Sharded(), verbose=False)
        found += [torch.load(place / f"{rank}.pt")[0] for rank in range(world)]
    assert found[0][0]["metric"] == "color"
    assert found[0][0]["value"] == pytest.approx(found[1][0]["value"], rel=1e-5)
    assert found[1] == found[2]


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
        (["--metric", "callbacks.PSNR"], "which is no SetMetric"),
        (["--metric", "callbacks.nothing.FID"], "which cannot be imported"),
        (["--metric", "FID"], "which cannot be imported"),
        (
            ["--metric", "callbacks.SWD", "--set", "colour=y"],
            "unexpected keyword argument",
        ),
        (["--metric", "callbacks.SWD", "--set", "color"], "not of the form NAME=VALUE"),
        (["--metric", "callbacks.SWD", "--set", "color=z"], "`color` of SWD is 'z'"),
        (["--metric", "callbacks.SWD", "--side", "0"], "--side is 0"),
        (
            ["--metric", "callbacks.SWD", "--out", "a.txt"],
            "expected a name ending in .npz",
        ),
    ],
)
def test_what_the_command_refuses(
    folder: Path, caplog: Any, arguments: list[str], message: str
) -> None:
    assert main([str(folder), *arguments]) == 2
    assert message in caplog.text


def test_the_command_without_weights(folder: Path, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(FID, "absent", lambda self: "a.pth is missing")
    assert main([str(folder)]) == 2
