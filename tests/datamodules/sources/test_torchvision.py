"""Datasets of torchvision as a source, from tiny files of CIFAR-10's form; nothing is fetched."""

from __future__ import annotations

import hashlib
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from torchvision import datasets

from datamodules import Torchvision

NAMES = ["plane", "car", "cat"]
LABELS = [1, 0, 1, 2, 1]


@pytest.fixture
def cifar(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with five training images and two test images in the files of CIFAR-10."""
    folder = tmp_path / datasets.CIFAR10.base_folder
    folder.mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (5, 3 * 32 * 32), dtype=np.uint8)
    files = {
        "data_batch_1": {"data": pixels, "labels": LABELS},
        "test_batch": {"data": pixels[:2], "labels": LABELS[:2]},
        "batches.meta": {"label_names": NAMES},
    }
    md5 = {}
    for name, content in files.items():
        (folder / name).write_bytes(pickle.dumps(content))
        md5[name] = hashlib.md5((folder / name).read_bytes()).hexdigest()
    for attribute, name in (("train_list", "data_batch_1"), ("test_list", "test_batch")):
        monkeypatch.setattr(datasets.CIFAR10, attribute, [[name, md5[name]]])
    meta = {"filename": "batches.meta", "key": "label_names", "md5": md5["batches.meta"]}
    monkeypatch.setattr(datasets.CIFAR10, "meta", meta)
    return tmp_path


def prepared(source: Torchvision) -> Torchvision:
    source.prepare(2.0)
    return source


def test_keys_name_class_and_number(cifar: Path) -> None:
    every = prepared(Torchvision("CIFAR10", str(cifar), train=True, download=True))
    assert every.keys == ["car/0", "plane/1", "car/2", "cat/3", "car/4"]
    test = prepared(Torchvision("CIFAR10", str(cifar), train=False))
    assert test.keys == ["car/0", "plane/1"]


def test_pixels_are_those_of_the_file(cifar: Path) -> None:
    source = prepared(Torchvision("CIFAR10", str(cifar), train=True))
    expected = np.random.default_rng(0).integers(0, 256, (5, 3, 32, 32), dtype=np.uint8)
    assert np.array_equal(source.read(3)["hr"], expected[3].transpose(1, 2, 0))


class Plain:
    """A dataset of twelve images without classes."""

    def __init__(self, root: Path) -> None:
        self.images = [Image.new("L", (8, 6), number) for number in range(12)]

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Image.Image:
        return self.images[index]


def test_a_dataset_without_classes_has_numbers_as_keys(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(datasets, "Plain", Plain, raising=False)
    source = prepared(Torchvision("Plain", str(tmp_path)))
    assert source.keys[:2] == ["00", "01"]
    assert np.array_equal(source.read(11)["hr"], np.full((6, 8, 3), 11))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"dataset": "CIFAR1"}, r"'CIFAR1'.* did you mean 'CIFAR1?0'"),
        ({"options": {"year": 2012}}, r"refuses its arguments \(.*year.*Torchvision.train"),
        ({"root": "none"}, r"CIFAR10 cannot be read in Torchvision.root 'none': .*download"),
    ],
)
def test_a_mistake_is_named(cifar: Path, arguments: dict[str, Any], message: str) -> None:
    given: dict[str, Any] = {"dataset": "CIFAR10", "root": str(cifar), "train": True, **arguments}
    with pytest.raises(ValueError, match=message):
        prepared(Torchvision(**given))
