"""Throughput: the numbers, when they are logged, what they cost."""

from __future__ import annotations

import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers.logger import DummyLogger, Logger
from torch import Tensor

from callbacks.throughput import Throughput
from tests.callbacks.tiny import Pictures, Tiny, loader, trainer


class Memory(DummyLogger):
    """Keeps what is logged."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[int | None, dict[str, float]]] = []

    def log_metrics(self, metrics: Any, step: int | None = None) -> None:
        if any(name.startswith("throughput") for name in metrics):
            self.found.append((step, dict(metrics)))


class SlowData(Pictures):
    """One picture takes 4 ms to read."""

    def __getitem__(self, index: int) -> dict[str, Any]:
        time.sleep(0.004)
        return super().__getitem__(index)


class SlowStep(Tiny):
    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        time.sleep(0.008)
        return super().training_step(batch, batch_idx)


class SlowValidation(Callback):
    def on_validation_batch_end(self, *_: Any) -> None:
        time.sleep(0.5)


def fit(folder: Path, *callbacks: Callback, **arguments: Any) -> Memory:
    memory = Memory()
    logger: Logger = memory
    run = trainer(folder, *callbacks, logger=logger, **arguments)
    run.fit(SlowStep(), loader(SlowData(21), batch_size=3), loader(Pictures(1)))
    return memory


def test_numbers(tmp_path: Path) -> None:
    found = fit(tmp_path, Throughput(6), max_epochs=1).found
    assert [step for step, _ in found] == [7]  # from the end of step 1
    values = found[0][1]
    seconds = values["throughput/seconds_per_step"]
    assert 0.02 <= seconds < 0.2  # 3 pictures of 4 ms and a step of 8 ms; machines may be busy
    assert values["throughput/images_per_second"] == pytest.approx(3 / seconds, rel=1e-6)
    assert 0.1 < values["throughput/data_share"] < 0.95


def test_validation_does_not_count(tmp_path: Path) -> None:
    found = fit(tmp_path, Throughput(4), SlowValidation(), max_epochs=1, val_check_interval=2).found
    assert [step for step, _ in found] == [5]
    assert (
        found[0][1]["throughput/seconds_per_step"] < 0.2
    )  # two pauses of 0.5 s lie in the interval
    assert found[0][1]["throughput/data_share"] < 0.95


def test_the_trainers_interval_is_the_default_and_steps_are_updates(tmp_path: Path) -> None:
    found = fit(
        *(tmp_path, Throughput()), max_epochs=2, log_every_n_steps=2, accumulate_grad_batches=2
    ).found
    # 4 updates an epoch of 7 batches; the interval begins in the middle of an update, at step 0.
    assert [step for step, _ in found] == [2, 4, 6, 8]
    for _, values in found:
        seconds = values["throughput/seconds_per_step"]
        assert 4 <= values["throughput/images_per_second"] * seconds <= 6.01


def test_every_process_counts(tmp_path: Path) -> None:
    logged: list[dict[str, float]] = []
    logger = SimpleNamespace(log_metrics=lambda values, step: logged.append(values))
    strategy = SimpleNamespace(root_device=torch.device("cpu"))
    run: Any = SimpleNamespace(
        world_size=4, loggers=[logger], strategy=strategy, global_step=0, log_every_n_steps=1
    )
    callback, model = Throughput(), Tiny()
    callback.on_train_start(run, model)
    for _ in range(2):
        run.global_step += 1
        callback.on_train_batch_start(run, model, {}, 0)
        callback.on_train_batch_end(run, model, None, {"key": ["a", "b"]}, 0)
    rate = logged[0]["throughput/images_per_second"]
    assert rate * logged[0]["throughput/seconds_per_step"] == pytest.approx(8)


def test_a_step_costs_less_than_ten_microseconds(tmp_path: Path) -> None:
    class Measure(Callback):
        best = 1.0

        def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
            callback = next(c for c in trainer.callbacks if isinstance(c, Throughput))
            batch = {"key": ["a"] * 16}
            for _ in range(200):
                start = time.perf_counter()
                callback.on_train_batch_start(trainer, pl_module, batch, 0)
                callback.on_train_batch_end(trainer, pl_module, None, batch, 0)
                self.best = min(self.best, time.perf_counter() - start)

    measure = Measure()
    fit(tmp_path, Throughput(1000), measure, max_epochs=1)
    assert measure.best < 10e-6


def test_an_interval_below_one() -> None:
    with pytest.raises(ValueError, match="`every_n_steps` of Throughput is 0"):
        Throughput(0)
