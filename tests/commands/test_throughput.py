"""`throughput`: the advice follows from what is slow, and nothing is left behind."""

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
from commands.advice import Measured, Pictures, Stage, advise, doubt, nothing, verdict
from datamodules.clock import DECODING
from datamodules.source import Sample, Source
from lightning_modules.regression import Regression

Enlarger = Callable[..., None]
HERE = "tests.commands.test_throughput"


class Slow(Source):
    """Pictures that wait on their way, as those on a server do.

    Args:
        seconds: For so long.
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
    """A model whose step waits, as one on a busy device does."""

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        time.sleep(0.2)
        return super().training_step(batch, batch_idx)


@pytest.fixture
def found(tiny: Path, enlarger: Enlarger, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Run the command; give what it measured."""
    monkeypatch.setattr(throughput, "SECONDS", 0.3)
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
def test_slow_pictures(found: Callable[..., Measured], capsys: pytest.CaptureFixture[str]) -> None:
    parts = found("--data.init_args.train", f"{HERE}.Slow", "--data.init_args.workers", 1)
    assert parts.reading.seconds >= 0.2  # 4 pictures of 50 ms
    assert parts.reading.cpu < parts.reading.seconds / 2
    assert parts.decoding.seconds == 0  # it decodes nothing
    assert parts.limit == "reading"
    assert parts.whole > 0.05
    first = advise(parts)[0]
    assert first.change.startswith("data.init_args.workers: 1 -> ")
    assert first.seconds < parts.seconds
    told = " ".join(capsys.readouterr().out.split())
    assert "most of all reading them: 1 worker can give a batch every" in told
    assert f"1. {first.change}" in told


@pytest.mark.slow
@pytest.mark.timing
def test_a_slow_step(found: Callable[..., Measured], capsys: pytest.CaptureFixture[str]) -> None:
    parts = found("--model", f"{HERE}.SlowStep", "--data.init_args.workers", 1)
    assert parts.step.seconds >= 0.2
    assert parts.limit == "step"
    assert parts.decoding.seconds > 0
    assert not [a for a in advise(parts) if "workers" in a.change or "pack" in a.change]
    told = " ".join(capsys.readouterr().out.split())
    assert "most of all the step" in told


def test_nothing_is_left_behind(found: Callable[..., Measured], tiny: Path) -> None:
    before = sorted(tiny.rglob("*"))
    found()
    assert sorted(tiny.rglob("*")) == before
    assert DECODING.around is None


def test_callbacks_that_it_has_no_use_for(found: Callable[..., Measured], tiny: Path) -> None:
    """It has a bar of its own and saves nothing, but what refuses to go without a logger goes."""
    before = sorted(tiny.rglob("*"))
    kinds = ("ModelCheckpoint", "RichProgressBar", "LearningRateMonitor")
    callbacks = ", ".join(f"lightning.pytorch.callbacks.{kind}" for kind in kinds)
    bar = ("--trainer.enable_progress_bar", "true")
    found("--trainer.callbacks", f"[{callbacks}]", "--trainer.logger", "true", *bar)
    assert sorted(tiny.rglob("*")) == before


def test_what_passes_through_the_decoders_is_seen(
    found: Callable[..., Measured], tmp_path: Path
) -> None:
    for number in range(8):
        pixels = np.zeros((24 + number, 32, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{number}.{'jpg' if number % 2 else 'png'}")
    train = "datamodules.folder.Folder"
    root = ("--data.init_args.train.init_args.root", tmp_path)
    parts = found("--data.init_args.train", train, *root)
    assert parts.decoding.seconds > 0
    assert 24 * 32 < parts.pictures.pixels < 31 * 32
    assert 0 < parts.pictures.jpeg < 1


def test_a_trained_run_is_neither_resumed_nor_refused(
    trained: Path, found: Callable[..., Measured]
) -> None:
    before = {path: path.stat().st_mtime_ns for path in trained.rglob("*")}
    found("--data.init_args.batch_size", 2)
    assert {path: path.stat().st_mtime_ns for path in trained.rglob("*")} == before


@pytest.mark.slow
def test_a_run_that_is_too_short(refusal: Callable[..., str], tiny: Path) -> None:
    message = refusal("throughput", "--config", "tiny.yaml", "--trainer.max_steps", 2)
    assert "trainer.max_steps" in message


# --------------------------------------------------------------------------------------- the advice

EVEN = Measured(
    *(Stage(0.01, 0.01) for _ in range(6)), batch=16, workers=2, cores=16, device="cuda"
)


def changes(now: Measured) -> list[str]:
    return [advice.change for advice in advise(now)]


def test_a_batch_takes_as_long_as_the_slower_side() -> None:
    assert EVEN.seconds == pytest.approx(0.03)
    assert replace(EVEN, workers=1, reading=Stage(0.05, 0.05)).seconds == pytest.approx(0.07)
    assert replace(EVEN, workers=0).seconds == pytest.approx(0.06)


def test_no_machine_does_more_than_its_cores() -> None:
    one = replace(EVEN, cores=1)
    assert one.seconds == pytest.approx(0.06)
    assert one.limit == "cores"
    assert "The processor limits" in verdict(one)
    assert not any("workers" in change for change in changes(one))


def test_as_many_workers_as_the_step_needs() -> None:
    slow = replace(EVEN, workers=1, decoding=Stage(0.1, 0.1))  # 0.12 s against 0.03
    assert changes(slow)[0] == "data.init_args.workers: 1 -> 4"
    assert advise(slow)[0].seconds == pytest.approx(0.03)
    few = replace(slow, cores=2)
    assert changes(few)[0] == "data.init_args.workers: 1 -> 2"


def test_workers_that_wait_may_be_more_than_the_cores() -> None:
    far = replace(EVEN, workers=2, cores=2, reading=Stage(0.4, 0.001))
    assert changes(far)[0] == "data.init_args.workers: 2 -> 14"
    assert any("read_ahead" in c for c in changes(replace(far, pictures=Pictures(source="Shards"))))
    assert any("pack" in change for change in changes(far))


def test_crops_alone_where_most_pixels_are_thrown_away() -> None:
    large = Pictures(pixels=2040 * 1356, crop=256**2, jpeg=1.0, source="Shards")
    slow = replace(EVEN, workers=8, decoding=Stage(0.8, 0.8), pictures=large)
    found = [advice for advice in advise(slow) if "--restart-markers" in advice.change]
    assert len(found) == 1
    assert "jpeg" not in found[0].change
    assert slow.seconds / found[0].seconds > 2
    png = replace(slow, pictures=large._replace(jpeg=0.0))
    assert any("--encode jpeg" in change for change in changes(png))
    small = replace(slow, pictures=large._replace(pixels=300 * 300))
    assert not any("--restart-markers" in change for change in changes(small))


def test_advice_is_about_what_limits() -> None:
    slow = replace(EVEN, step=Stage(0.5, 0.01))
    assert [change.split(":")[0] for change in changes(slow)] == ["trainer.precision"]
    half = replace(slow, precision="bf16-mixed")
    assert not advise(half)
    assert "trainer.devices" in nothing(half)
    assert "another device" in nothing(replace(half, device="cpu"))
    degrading = replace(EVEN, degradation=Stage(0.5, 0.01), compilable=True)
    assert changes(degrading)[0] == "degradation.init_args.compile: true"
    assert not any("compile" in c for c in changes(replace(degrading, device="cpu")))
    idle = replace(EVEN, device="cpu", step=Stage(0.5, 0.5), gpu_idle=True)
    assert changes(idle)[0] == "trainer.accelerator: gpu"


def test_a_whole_that_is_not_its_parts_is_said() -> None:
    assert doubt(EVEN) == ""
    assert doubt(replace(EVEN, whole=0.031)) == ""
    assert "slower than its parts" in doubt(replace(EVEN, whole=0.09))
    assert "quicker than its parts" in doubt(replace(EVEN, whole=0.01))
