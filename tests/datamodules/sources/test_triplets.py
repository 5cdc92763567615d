"""Judged triplets: found, read, cropped alike, and refused if incomplete."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from datamodules.base import SRDataModule
from datamodules.sources.triplets import PARTS, Triplets
from files.images.decode import UnreadableImage
from tests.datamodules.memory import training, with_crops

SIDE = 20


def write(folder: Path, names: str = "abcdef", judge: float = 0.25) -> Path:
    """p0 is ref with all colours 1 higher, p1 with all 2 higher; `ref` encodes the name."""
    for part in (*PARTS, "judge"):
        (folder / part).mkdir(parents=True)
    for name in names:
        pixels = np.random.default_rng(ord(name)).integers(0, 250, (SIDE, SIDE, 3), np.uint8)
        for more, part in enumerate(PARTS):
            Image.fromarray(pixels + np.uint8(more)).save(folder / part / f"{name}.png")
        np.save(folder / "judge" / f"{name}.npy", np.array([judge], np.float32))
    return folder


def prepared(root: Path) -> Triplets:
    source = Triplets(str(root))
    source.prepare(1.0)
    return source


def module(root: Path, **arguments: object) -> SRDataModule:
    settings = {"batch_size": 3, "crop_size": 8, "workers": 0, "eval_batch_size": 2, **arguments}
    train, val = Triplets(str(root)), {"judged": Triplets(str(root))}
    return SRDataModule(1.0, train=train, val=val, **with_crops(settings))


def test_folders_at_any_depth(tmp_path: Path) -> None:
    write(tmp_path / "cnn", "ab", judge=0.0)
    write(tmp_path / "more/mix", "a", judge=1.0)
    source = prepared(tmp_path)
    assert source.keys == ["cnn/a", "cnn/b", "more/mix/a"]
    assert prepared(tmp_path / "cnn").keys == ["a", "b"]
    sample = source.read(2)
    assert set(sample) == {*PARTS, "judge"}
    assert sample["judge"] == 1.0
    assert sample["ref"].shape == (SIDE, SIDE, 3)
    assert np.array_equal(sample["ref"] + 2, sample["p1"])


@pytest.mark.parametrize("workers", [0, 1])
def test_crops_of_a_triplet_lie_in_one_place(tmp_path: Path, workers: int) -> None:
    batches = list(training(module(write(tmp_path / "set"), workers=workers)))
    assert sorted(key for batch in batches for key in batch["key"]) == [
        f"train/{name}" for name in "abcdef"
    ]
    for batch in batches:
        assert not {"hr", "lr", "size"} & set(batch)
        assert batch["ref"].shape == (3, 3, 8, 8)
        assert batch["judge"].tolist() == [0.25] * 3
        for more, part in ((1, "p0"), (2, "p1")):
            torch.testing.assert_close(batch[part], batch["ref"] + more / 255)
    places = {tuple(x.flatten().tolist()) for batch in batches for x in batch["ref"]}
    assert len(places) == 6


def test_what_cannot_be_read(tmp_path: Path) -> None:
    folder = write(tmp_path / "set", "abcd")
    np.save(folder / "judge/a.npy", np.array([1.5]))
    (folder / "judge/b.npy").write_bytes(b"nothing")
    Image.new("RGB", (SIDE, SIDE + 1)).save(folder / "p0/c.png")
    (folder / "ref/d.png").write_bytes(b"")
    source = prepared(folder)
    with pytest.raises(UnreadableImage, match=r"a\.npy: it holds 1\.5; expected a number"):
        source.read(0)
    with pytest.raises(UnreadableImage, match=r"b\.npy: "):
        source.read(1)
    with pytest.raises(UnreadableImage, match=r"c: ref, p0 and p1 have the shapes \[\(20, 20, 3"):
        source.read(2)
    with pytest.raises(UnreadableImage, match=r"d\.png"):
        source.read(3)


def test_an_image_in_two_formats_is_ambiguous(tmp_path: Path) -> None:
    folder = write(tmp_path / "set")
    Image.new("RGB", (SIDE, SIDE)).save(folder / "p0/a.webp")
    with pytest.raises(ValueError, match=r"p0/a\.(png|webp) and .*p0/a\.(png|webp)"):
        prepared(folder)
