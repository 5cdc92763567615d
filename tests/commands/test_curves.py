"""The report's curves come from the logged values, whatever the logger."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from callbacks.report.runs import Run, read_run
from callbacks.report.scalar_record import FILE
from tests.quick import quick

Enlarger = Callable[..., None]
Fitted = Callable[..., Path]
EVERY_TWO = ("--trainer.val_check_interval", 2)
FIT = ("fit", "--config", "tiny.yaml", *EVERY_TWO)


def curves(run: str = "tiny") -> Run:
    return read_run(Path("runs", run), run)


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
