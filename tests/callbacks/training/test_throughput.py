"""Throughput: shares of time on a clock that the test moves."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from callbacks.training import throughput as timeline
from callbacks.training.throughput import Budget, Throughput, Timeline
from datamodules.base import Sample, Source, SRDataModule
from degradations.bicubic import Bicubic
from degradations.draws import Params
from files import clock
from files.batch import Seconds
from files.clock import DECODING
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

    def degrade(self, hr: Tensor, params: Params) -> Tensor:
        self.still.now += 5
        return super().degrade(hr, params)


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


def shares_of(folder: Path, still: Clock, **settings: Any) -> dict[str, float]:
    """One epoch of 6 batches of 4 images: 4 x 3 + 5 + 7 = 24 s each, without workers."""
    data = SRDataModule(
        2,
        train=Slow(still),
        val={"two": Slow(still, 2)} if "val_check_interval" in settings else {},
        batch_size=4,
        crop_size=16,
        workers=0,
        degradation=SlowBicubic(still),
    )
    throughput = Throughput()
    run = trainer(folder, throughput, log_every_n_steps=2, **settings)
    run.fit(Model(still), datamodule=data)
    assert data.listener is None
    return throughput._budget.shares()


def test_shares_without_workers(
    tmp_path: Path, still: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    expected = {
        **{"waiting": 0, "degrading": 5 / 24, "stepping": 7 / 24, "validating": 0},
        **{"reading": 8 / 24, "decoding": 4 / 24, "cropping": 0},
    }
    assert shares_of(tmp_path, still) == pytest.approx(expected)
    assert "time of training: degrading 20.8%, stepping 29.2%, reading 33.3%" in caplog.text


def test_validation_has_a_share(tmp_path: Path, still: Clock) -> None:
    found = shares_of(tmp_path, still, val_check_interval=2)
    assert found["validating"] == pytest.approx(3 * 40 / (5 * 24 + 3 * 40))
    assert found["stepping"] == pytest.approx(5 * 7 / (5 * 24 + 3 * 40))


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
