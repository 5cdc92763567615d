"""`throughput` names the largest part, and leaves nothing behind."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from torch import Tensor

from commands import throughput
from commands.throughput import Measured
from datamodules.clock import DECODING
from datamodules.source import Sample, Source
from lightning_modules.one_pass.regression import Regression

Enlarger = Callable[..., None]
HERE = "tests.commands.test_throughput"


class Slow(Source):
    """Images that take time to read, as those of a server do.

    Args:
        seconds: Delay of each.
    """

    def __init__(self, seconds: float = 0.05) -> None:
        super().__init__()
        self.seconds = seconds

    @property
    def keys(self) -> Sequence[str]:
        return [str(number) for number in range(400)]

    def read(self, index: int) -> Sample:
        time.sleep(self.seconds)
        return {"hr": np.zeros((16, 16, 3), np.uint8)}


class SlowStep(Regression):
    """A model with a slow step, as on a busy device."""

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        time.sleep(0.2)
        return super().training_step(batch, batch_idx)


@pytest.fixture
def found(tiny: Path, enlarger: Enlarger, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Run the command; return the measured seconds."""
    monkeypatch.setattr(throughput, "SECONDS", 0.1)
    shown: list[Measured] = []
    show = throughput.show

    def both(measured: Measured, world: int) -> None:
        shown.append(measured)
        show(measured, world)

    monkeypatch.setattr(throughput, "show", both)

    def run(*args: object) -> Measured:
        enlarger("throughput", "--config", "tiny.yaml", "--trainer.max_steps", -1, *args)
        return shown[-1]

    return run


# -------------------------------------------------------------------------------- the whole command


@pytest.mark.slow
@pytest.mark.timing
def test_slow_reading(found: Callable[..., Measured], capsys: pytest.CaptureFixture[str]) -> None:
    parts = found("--data.init_args.train", f"{HERE}.Slow", "--data.init_args.workers", 1)
    assert parts.reading >= 0.2  # 4 images of 50 ms
    assert parts.decoding == 0
    assert parts.whole > 0.05
    assert "The largest part is reading: 2" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.timing
def test_a_slow_step(found: Callable[..., Measured], capsys: pytest.CaptureFixture[str]) -> None:
    parts = found("--model", f"{HERE}.SlowStep", "--data.init_args.workers", 1)
    assert parts.step >= 0.2
    assert parts.decoding > 0
    assert "The largest part is step: 2" in capsys.readouterr().out


def test_nothing_is_left_behind(found: Callable[..., Measured], tiny: Path) -> None:
    before = sorted(tiny.rglob("*"))
    found()
    assert sorted(tiny.rglob("*")) == before
    assert DECODING.around is None


def test_unused_callbacks(found: Callable[..., Measured], tiny: Path) -> None:
    """It has its own bar and saves nothing; callbacks that require a logger are removed."""
    before = sorted(tiny.rglob("*"))
    kinds = ("ModelCheckpoint", "RichProgressBar", "LearningRateMonitor")
    callbacks = ", ".join(f"lightning.pytorch.callbacks.{kind}" for kind in kinds)
    bar = ("--trainer.enable_progress_bar", "true")
    found("--trainer.callbacks", f"[{callbacks}]", "--trainer.logger", "true", *bar)
    assert sorted(tiny.rglob("*")) == before


def test_decoding_is_measured(found: Callable[..., Measured], tmp_path: Path) -> None:
    for number in range(8):
        Image.fromarray(np.zeros((24, 32, 3), np.uint8)).save(tmp_path / f"{number}.jpg")
    train = "datamodules.Folder"
    parts = found(
        "--data.init_args.train", train, "--data.init_args.train.init_args.root", tmp_path
    )
    assert parts.decoding > 0
    assert parts.reading > 0


def test_a_trained_run_is_neither_resumed_nor_refused(
    trained: Path, found: Callable[..., Measured]
) -> None:
    before = {path: path.stat().st_mtime_ns for path in trained.rglob("*")}
    found("--data.init_args.batch_size", 2)
    assert {path: path.stat().st_mtime_ns for path in trained.rglob("*")} == before


@pytest.mark.slow
def test_a_run_too_short_to_measure(refusal: Callable[..., str], tiny: Path) -> None:
    message = refusal("throughput", "--config", "tiny.yaml", "--trainer.max_steps", 2)
    assert "trainer.max_steps" in message


# ---------------------------------------------------------------------------------------- the table

EVEN = Measured(*[0.01] * 6, batch=16, workers=2, cores=16, device="cuda", crop_size=64)


@pytest.mark.parametrize(
    ("changed", "largest"),
    [
        ({"step": 0.02}, "step: 20.00 ms a batch"),
        ({"degradation": 0.5}, "degradation: 500.00 ms a batch"),
        ({"decoding": 0.018, "step": 0.01}, "transfer: 10.00 ms a batch"),  # 9 ms by two workers
        (
            {"decoding": 0.03},
            "decoding: 30.00 ms in each of 2 workers, 15.00 ms a batch",
        ),
        ({"decoding": 0.03, "workers": 1}, "decoding: 30.00 ms a batch"),
        ({"cropping": 0.02, "workers": 0}, "crop, flips, batch: 20.00 ms a batch"),
    ],
)
def test_the_largest_part(
    changed: dict[str, Any], largest: str, capsys: pytest.CaptureFixture[str]
) -> None:
    throughput.show(replace(EVEN, **changed))
    assert capsys.readouterr().out.splitlines()[-1] == f"The largest part is {largest}."


def test_the_table(capsys: pytest.CaptureFixture[str]) -> None:
    throughput.show(replace(EVEN, step=0.03, whole=0.06), world=2)
    printed = " ".join(capsys.readouterr().out.split())
    for text in (
        "A batch of 16 crops of 64 px, on each of 2 processes; 16 cores, cuda",
        "reading a worker 10.00 1,600 12%",
        "step on cuda 30.00 533 38%",
        "images, together 2 workers 15.00 1,067",
        "training, together on cuda 50.00 320",
        "the run, measured 60.00 267",
    ):
        assert text in printed
