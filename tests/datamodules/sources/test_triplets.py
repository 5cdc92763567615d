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
from tests.datamodules.memory import data_of, keys_of, training

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


def module(root: Path, **settings: object) -> SRDataModule:
    triplets = {"scale": 1.0, "batch_size": 3, "crop_size": 8, "degradation": None}
    return data_of(Triplets(str(root)), **triplets | settings)


def test_folders_at_any_depth(tmp_path):
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
def test_crops_of_a_triplet_lie_in_one_place(tmp_path, workers):
    batches = list(training(module(write(tmp_path / "set"), workers=workers)))
    assert sorted(keys_of(batches)) == [f"train/{name}" for name in "abcdef"]
    for batch in batches:
        assert not {"hr", "lr", "size"} & set(batch)
        assert batch["ref"].shape == (3, 3, 8, 8)
        assert batch["judge"].tolist() == [0.25] * 3
        for more, part in ((1, "p0"), (2, "p1")):
            torch.testing.assert_close(batch[part], batch["ref"] + more / 255)
    places = {tuple(x.flatten().tolist()) for batch in batches for x in batch["ref"]}
    assert len(places) == 6


def test_an_unreadable_triplet_is_named(tmp_path):
    folder = write(tmp_path / "set", "abcd")
    np.save(folder / "judge/a.npy", np.array([1.5]))
    (folder / "judge/b.npy").write_bytes(b"nothing")
    Image.new("RGB", (SIDE, SIDE + 1)).save(folder / "p0/c.png")
    (folder / "ref/d.png").write_bytes(b"")
    source = prepared(folder)
    reasons = [r"a\.npy: it holds 1\.5", r"b\.npy: ", "c: .* have the shapes", r"d\.png"]
    for index, reason in enumerate(reasons):
        with pytest.raises(UnreadableImage, match=reason):
            source.read(index)
