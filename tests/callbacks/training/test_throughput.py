"""Throughput: numbers and shares on a clock that the test moves, and when they are logged."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch.loggers.logger import DummyLogger
from torch import Tensor

from callbacks.training import throughput as timeline
from callbacks.training.throughput import Budget, Throughput, Timeline
from datamodules import clock
from datamodules.base import Sample, Source, SRDataModule
from datamodules.clock import DECODING
from degradations.bicubic import Bicubic
from files.batch import Seconds
from tests.callbacks.tiny import Tiny, trainer


class Clock:
    """A clock that stands still unless it is moved."""

    def __init__(self) -> None:
        self.now = 100.0

    def perf_counter(self) -> float:
        return self.now


@pytest.fixture
def still(monkeypatch: pytest.MonkeyPatch) -> Clock:
    found = Clock()
    for module in (timeline, clock):
        monkeypatch.setattr(module, "time", found)
    return found


class Memory(DummyLogger):
    """A logger that keeps the logged values."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[int | None, dict[str, float]]] = []

    def log_metrics(self, metrics: Any, step: int | None = None) -> None:
        names = [name for name in metrics if name.startswith("throughput/")]
        if names:
            short = {name.removeprefix("throughput/"): metrics[name] for name in names}
            self.found.append((step, short))


class Slow(Source):
    """Images that take 2 s to read and 1 s to decode."""

    def __init__(self, still: Clock, count: int = 24) -> None:
        super().__init__()
        self.still, self.count = still, count

    @property
    def keys(self) -> Sequence[str]:
        return [f"p{n:02d}" for n in range(self.count)]

    def read(self, index: int) -> Sample:
        self.still.now += 2
        return {"hr": self.decode()}

    @DECODING
    def decode(self) -> np.ndarray:
        self.still.now += 1
        return np.zeros((32, 32, 3), np.uint8)


class SlowBicubic(Bicubic):
    """A degradation of 5 s per batch."""

    def __init__(self, still: Clock) -> None:
        super().__init__(2)
        self.still = still

    def forward(self, hr: Tensor, seeds: Tensor) -> Tensor:
        self.still.now += 5
        return super().forward(hr, seeds)


class Model(Tiny):
    """A model of 7 s per step, and 12 s per image of the validation (20 s with 8 s for its LR)."""

    def __init__(self, still: Clock) -> None:
        super().__init__()
        self.still = still

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        self.still.now += 7
        return super().training_step(batch, batch_idx)

    def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> Any:
        self.still.now += 12
        return super().validation_step(batch, batch_idx)


def fit(folder: Path, still: Clock, **settings: Any) -> Memory:
    """One epoch of 6 batches of 4 images: 4 x 3 + 5 + 7 = 24 s each, without workers."""
    memory = Memory()
    data = SRDataModule(
        2,
        train=Slow(still),
        val={"two": Slow(still, 2)} if "val_check_interval" in settings else {},
        batch_size=4,
        crop_size=16,
        workers=0,
        degradation=SlowBicubic(still),
    )
    run = trainer(folder, Throughput(), logger=memory, **settings)
    model = Model(still)
    run.fit(model, datamodule=data)
    assert data.listener is None
    return memory


def test_shares_without_workers(tmp_path: Path, still: Clock) -> None:
    found = fit(tmp_path, still, log_every_n_steps=2).found
    assert [step for step, _ in found] == [3, 5, 6]  # from the end of step 1; the end
    expected = {
        "images_per_second": 4 / 24,
        "share_waiting": 0,
        "share_degrading": 5 / 24,
        "share_stepping": 7 / 24,
        "share_validating": 0,
        "share_reading": 8 / 24,
        "share_decoding": 4 / 24,
        "share_cropping": 0,
    }
    assert found[0][1] == pytest.approx(expected)
    assert found[1][1] == pytest.approx(expected)
    shares = {name: value for name, value in expected.items() if name.startswith("share")}
    assert found[2][1] == pytest.approx(shares)


def test_validation_has_a_share_and_is_in_no_other_number(tmp_path: Path, still: Clock) -> None:
    found = fit(tmp_path, still, log_every_n_steps=2, val_check_interval=2).found
    assert [step for step, _ in found] == [3, 5, 6]
    for (_, values), validations in zip(found[:2], (1, 2), strict=True):
        whole = 2 * validations * 24 + validations * 40
        assert values["images_per_second"] == pytest.approx(4 / 24)
        assert values["share_validating"] == pytest.approx(validations * 40 / whole)
        assert values["share_stepping"] == pytest.approx(2 * validations * 7 / whole)
    assert found[2][1]["share_validating"] == pytest.approx(3 * 40 / (5 * 24 + 3 * 40))


def test_of_workers() -> None:
    """Two workers, 10 s: each had read for 2 s and decoded for 6."""
    budget = Budget(workers=2)
    budget.add({"waiting": 1.0, "degrading": 2.0, "stepping": 6.0, "other": 1.0})
    budget.add_prepared([Seconds(1.0, 2.0, 0.5), Seconds(3.0, 10.0, 0.5)])
    assert budget.shares() == pytest.approx(
        {
            **{"waiting": 0.1, "degrading": 0.2, "stepping": 0.6, "other": 0.1},
            **{"validating": 0, "reading": 0.2, "decoding": 0.6, "cropping": 0.05},
        }
    )
    assert budget.sentence() == (
        "time of training: waiting 10.0%, degrading 20.0%, stepping 60.0%; "
        "2 workers, beside it: reading 20.0%, decoding 60.0%, cropping 5.0%"
    )


@pytest.mark.gpu
@pytest.mark.timing
def test_on_a_gpu_the_time_is_that_of_its_queue() -> None:
    device = torch.device("cuda")
    line = Timeline(device)
    time.sleep(0.05)
    line.mark("waiting")
    torch.cuda._sleep(100_000_000)  # some 50 ms in which the host goes on
    line.mark("stepping")
    line.mark("other")
    spent = line.read()
    assert spent["waiting"] > 0.04
    assert spent["stepping"] > 0.02
    assert spent["other"] < 0.01
    assert not line.read()
