"""The report's curves come from the logged values, whatever the logger."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, Trainer

from callbacks.report.runs import Run, check_run, read_run
from callbacks.report.scalar_record import FILE, ScalarRecord, read_record, with_record
from tests.quick import quick

Enlarger = Callable[..., None]
Fitted = Callable[..., Path]
EVERY_TWO = ("--trainer.val_check_interval", 2)
FIT = ("fit", "--config", "tiny.yaml", *EVERY_TWO)
CSV = "lightning.pytorch.loggers.CSVLogger"
TENSORBOARD = "lightning.pytorch.loggers.TensorBoardLogger"


def of_class(class_path: str) -> str:
    return json.dumps({"class_path": class_path, "init_args": {"save_dir": "logs"}})


class Own(Callback):
    """Log through the trainer's loggers, as some callbacks do, also what is not a scalar."""

    def on_train_batch_end(self, trainer: Trainer, *args: Any) -> None:
        for logger in trainer.loggers:
            logger.log_metrics({"own/value": 2.0 * trainer.global_step}, trainer.global_step)


def curves(run: str = "tiny") -> Run:
    return read_run(Path("runs", run), run)


LOGGERS = ["false", "true", of_class(CSV), of_class(TENSORBOARD), f"[{of_class(CSV)}]"]


@pytest.mark.parametrize("given", [False, CSV, [CSV], (CSV, TENSORBOARD)])
def test_the_record_comes_after_any_loggers(tmp_path: Path, given: Any) -> None:
    *others, record = with_record(given, tmp_path)
    assert isinstance(record, ScalarRecord)
    assert others == (list(given) if isinstance(given, list | tuple) else [given] if given else [])


@pytest.mark.parametrize("logger", quick(LOGGERS, "false", LOGGERS[-1]))
def test_any_logger(tiny: Path, enlarger: Enlarger, logger: str) -> None:
    enlarger(*FIT, "--trainer.logger", logger, "--trainer.callbacks+", f"{__name__}.Own")
    found = curves().curves
    assert found["train/loss"].steps == list(range(12))
    assert found["val/psnr"].steps == [1, 3, 6, 8, 11]
    assert found["own/value"].values[-1] == 24.0
    assert found["lr-Adam"].steps == list(range(12))
    assert found["bicubic/val/psnr"].values == [found["bicubic/val/psnr"].values[0]] * 5
    assert "train/loss" in Path("runs/tiny/report.html").read_text()


@pytest.mark.slow
def test_a_resumed_run_has_the_curves_of_an_uninterrupted_one(
    fitted: Fitted, enlarger: Enlarger
) -> None:
    fitted(*EVERY_TWO, name="whole")
    fitted(*EVERY_TWO, "--trainer.max_steps", 7, name="halves")
    enlarger(*FIT, "--run.name", "halves")
    whole, halves = curves("whole").curves, curves("halves").curves
    assert halves["train/loss"] == whole["train/loss"]


def test_what_is_logged_again_replaces_what_a_killed_process_left(
    fitted: Fitted, enlarger: Enlarger
) -> None:
    fitted(*EVERY_TWO, name="whole")
    record = fitted(*EVERY_TWO, "--trainer.max_steps", 7, name="killed") / FILE
    with record.open("a") as file:  # steps after the last checkpoint, and half a line
        file.write('{"step": 8, "values": {"train/loss": 9.0}}\n')
        file.write('{"step": 50, "values": {"train/loss": 9.0, "val/psnr": 1.0}}\n{"step": 51, "va')
    enlarger(*FIT, "--run.name", "killed")
    whole, killed = curves("whole").curves, curves("killed").curves
    assert killed["train/loss"] == whole["train/loss"]
    assert killed["val/psnr"].steps == whole["val/psnr"].steps


def test_a_run_that_is_begun_afresh(fitted: Fitted, enlarger: Enlarger) -> None:
    fitted(*EVERY_TWO)
    enlarger(*FIT, "--trainer.max_steps", 3, "--run.overwrite", "true")
    assert curves().curves["train/loss"].steps == [0, 1, 2]


@pytest.mark.slow
def test_other_commands_leave_it_alone(fitted: Fitted, enlarger: Enlarger) -> None:
    before = (fitted(*EVERY_TWO) / FILE).read_bytes()
    for command in ("validate", "check"):
        enlarger(command, *FIT[1:])
    enlarger(*FIT[:3], "--trainer.fast_dev_run", 1)
    assert (Path("runs/tiny") / FILE).read_bytes() == before


def test_a_record_alone_is_a_run(tmp_path: Path) -> None:
    record = ScalarRecord(tmp_path)
    record.log_metrics({"val/psnr": torch.tensor(3.0), "text": "a", "many": torch.ones(2)}, 4)
    record.log_metrics({"val/psnr": math.inf}, 5)
    record.log_metrics({"val/psnr": 1.0})  # without a step
    record.experiment.add_image("of a user without a logger", None)
    check_run(tmp_path)
    assert read_record(tmp_path) == {"val/psnr": {4: 3.0, 5: math.inf}}
    run = read_run(tmp_path, "a")
    assert run.curves["val/psnr"] == ([4], [3.0], 1)


def test_a_disk_that_is_full_is_said_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / FILE).parent.mkdir()
    (tmp_path / FILE).symlink_to("/dev/full")
    record = ScalarRecord(tmp_path)
    for step in range(3):
        record.log_metrics({"a": 1.0}, step)
    assert caplog.text.count("the report's curves could not be written") == 1


@pytest.mark.timing
def test_it_costs_next_to_nothing(tmp_path: Path) -> None:
    record, values = ScalarRecord(tmp_path), {f"train/{n}": 0.1 * n for n in range(8)}
    begun = time.perf_counter()
    for step in range(1000):
        record.log_metrics(values, step)
    assert time.perf_counter() - begun < 0.3


NEVER = ("--trainer.check_val_every_n_epoch", 100)
ENDS = {
    "max_steps": (*NEVER, "--trainer.max_steps", 7),
    "max_epochs": (*NEVER, "--trainer.max_steps", -1, "--trainer.max_epochs", 1),
    "max_time": (*NEVER, "--trainer.max_steps", -1, "--trainer.max_time", "00:00:00:01"),
    "early stopping": (
        *NEVER,
        *("--trainer.callbacks+", "lightning.pytorch.callbacks.EarlyStopping"),
        *("--trainer.callbacks.monitor", "train/loss", "--trainer.callbacks.min_delta", 99),
        *("--trainer.callbacks.patience", 0, "--trainer.callbacks.mode", "min"),
    ),
    "several epochs for a validation": (
        *("--trainer.check_val_every_n_epoch", "null", "--trainer.val_check_interval", 5000),
    ),
    "accumulation": (*NEVER, "--trainer.accumulate_grad_batches", 3, "--trainer.max_steps", 3),
}


@pytest.mark.parametrize("case", quick(ENDS, "max_steps", "early stopping"))
def test_a_training_without_validation_validates_at_its_end(
    tiny: Path, enlarger: Enlarger, caplog: pytest.LogCaptureFixture, case: str
) -> None:
    """Once, and the checkpoint of that step is ranked; the finished run has nothing to do."""
    command = ["fit", "--config", "tiny.yaml", *ENDS[case]]
    enlarger(*command)
    found = curves().curves["val/psnr"]
    best = json.loads(Path("runs/tiny/checkpoints/best.json").read_text())
    assert len(found.steps) == 1
    assert best["best"] == [f"step-{found.steps[0]:09d}.ckpt"]
    enlarger(*command)
    if case != "max_time":
        assert curves().curves["val/psnr"] == found


@pytest.mark.parametrize("more", [EVERY_TWO, (*EVERY_TWO, "--trainer.max_steps", 11), ()])
def test_a_training_with_a_validation_adds_none(
    fitted: Fitted, enlarger: Enlarger, more: tuple[object, ...]
) -> None:
    steps = {EVERY_TWO: [1, 3, 6, 8, 11], (): [4, 9]}
    fitted(*more)
    assert curves().curves["val/psnr"].steps == steps.get(more, [1, 3, 6, 8])


def test_a_run_that_was_validated_before_it_was_resumed_adds_none(
    fitted: Fitted, enlarger: Enlarger
) -> None:
    fitted(*EVERY_TWO, "--trainer.max_steps", 3)
    enlarger(*FIT[:3], *NEVER, "--run.change", "true")
    assert curves().curves["val/psnr"].steps == [1]


@pytest.mark.parametrize("logger", quick(LOGGERS[1:], "true"))
@pytest.mark.parametrize("verb", ["validate", "test"])
def test_evaluations_add_no_points(tiny: Path, enlarger: Enlarger, logger: str, verb: str) -> None:
    more = ("--trainer.logger", logger)
    enlarger(*FIT, *more)
    before, files = curves().curves, sorted(Path().rglob("*metrics.csv*"))
    enlarger(verb, "--config", "tiny.yaml", *more)
    assert curves().curves == before
    assert sorted(Path().rglob("*metrics.csv*")) == files
