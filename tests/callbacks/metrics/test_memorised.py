"""Memorised: copies are distinguished from new samples, and the protocol names the training set."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from callbacks.metrics import sets as reference
from callbacks.metrics.consistency import Memorised, nearest
from tests.callbacks.tiny import Tiny, loader, trainer

SHAPE = (32, 32, 3)


@pytest.fixture
def training(tmp_path: Path) -> Path:
    """Nine images of 32 px."""
    folder = tmp_path / "training"
    folder.mkdir()
    for number in range(9):
        pixels = np.random.default_rng(number).integers(0, 256, SHAPE, np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
    return folder


def thumbnails(metric: Memorised, first: int, count: int = 9) -> Tensor:
    numbers = range(first, first + count)
    pixels = [np.random.default_rng(n).integers(0, 256, SHAPE, np.uint8) for n in numbers]
    images = torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2).float() / 255
    return metric.features(images, {"key": [str(n) for n in range(count)]}).double()  # type: ignore[typeddict-item]


def test_copies_are_at_0_and_others_at_1(training: Path) -> None:
    metric = Memorised(str(training))
    others, more, copies = (thumbnails(metric, first) for first in (100, 200, 0))
    assert metric.distance(copies, others) == 0
    assert metric.distance(more, others) == pytest.approx(1, abs=0.05)
    half = torch.cat([copies[:5], more[:5]])
    assert 0.4 < metric.distance(half, others) < 0.6


def test_the_distance_is_to_the_nearest() -> None:
    images = torch.tensor([[0.0, 0.0], [10.0, 10.0]], dtype=torch.float64)
    samples = torch.tensor([[9.0, 9.0], [0.0, 2.0], [10.0, 10.0]], dtype=torch.float64)
    assert nearest(samples, images).tolist() == pytest.approx([1, 2**0.5, 0])


def test_a_run_names_what_was_trained_on(training: Path, tmp_path: Path) -> None:
    metric = Memorised(str(training))
    trainer(tmp_path, metric).validate(Tiny(), loader(), verbose=False)
    [record] = metric.records
    assert 0 < record["value"] < 5
    assert record["protocol"]["training_n"] == 9
    assert str(record["protocol"]["training"]).startswith("training, ")
    with pytest.raises(ValueError, match="'nowhere', where there is neither a folder"):
        trainer(tmp_path, Memorised("nowhere")).validate(Tiny(), loader(), verbose=False)


def test_features_are_not_sent_to_other_processes(
    training: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent = []
    monkeypatch.setattr("callbacks.metrics.consistency.on_first", lambda work: sent.append(work()))
    metric = Memorised(str(training))
    trainer(tmp_path, metric).validate(Tiny(), loader(), verbose=False)
    assert sent == [None]
    assert metric.records[0]["protocol"]["training_n"] == 9


def test_the_training_images_from_a_file(training: Path, tmp_path: Path) -> None:
    arguments = ["--metric", "callbacks.Memorised", "--set", "training=none"]
    file = tmp_path / "training.npz"
    assert reference.main([str(training), *arguments, "--out", str(file)]) == 0
    other = thumbnails(Memorised(str(training)), 50)
    few = thumbnails(Memorised(str(training)), 5)
    assert Memorised(str(file)).distance(few, other) == Memorised(str(training)).distance(
        few, other
    )
