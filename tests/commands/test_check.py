"""`check` does what `fit` does up to its first step, and leaves nothing behind."""

from __future__ import annotations

import logging
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer

Enlarger = Callable[..., None]
CHECK = ("check", "--config", "tiny.yaml")


def files(folder: Path) -> dict[str, float]:
    return {str(p): p.stat().st_mtime_ns for p in folder.rglob("*") if p.is_file()}


def test_tells_what_was_found_and_leaves_nothing(
    tiny: Path, enlarger: Enlarger, capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    before = files(tiny)
    with caplog.at_level(logging.INFO):
        enlarger(*CHECK)
    got = capsys.readouterr().out
    assert "16x16" in got
    assert "8x8" in got
    assert "all is well" in caplog.text
    assert files(tiny) == before


LOGGED = ("--trainer.logger", """{class_path: lightning.pytorch.loggers.CSVLogger,
    init_args: {save_dir: logs}}""")  # fmt: skip
KEPT = """[lightning.pytorch.callbacks.LearningRateMonitor,
    {class_path: lightning.pytorch.callbacks.ModelCheckpoint,
     init_args: {dirpath: kept, save_on_exception: true}}]"""


@pytest.mark.parametrize("logger", [("--trainer.logger", "true"), LOGGED])
def test_loggers_and_checkpoints_of_ones_own_leave_nothing(
    trained: Path, enlarger: Enlarger, logger: tuple[str, ...]
) -> None:
    """A callback that requires a logger finds one."""
    before = files(Path())
    more = ("--trainer.max_steps", 14, "--trainer.callbacks", KEPT, "--run.change", "true")
    enlarger(*CHECK, *logger, *more)
    assert files(Path()) == before


def test_gradients_that_are_not_finite(tiny: Path, refusal: Callable[..., str]) -> None:
    sentence = refusal(*CHECK, "--trainer.callbacks+", f"{__name__}.Spoil")
    assert "the gradients of the first batch are not finite (network." in sentence


class Spoil(Callback):
    """Set a weight to NaN."""

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        with torch.no_grad():
            next(pl_module.parameters()).fill_(torch.nan)


def test_ctrl_c_is_the_verdict(
    tiny: Path, enlarger: Enlarger, capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    with caplog.at_level(logging.INFO), pytest.raises(SystemExit) as ended:
        enlarger(*CHECK, "--trainer.callbacks+", f"{__name__}.Interrupt")
    assert ended.value.code == 130
    assert "all is well" not in caplog.text
    assert "stopped by SIGINT before its end" in caplog.text
    assert "checkpoint" not in capsys.readouterr().err
    assert not Path("runs").exists()


class Interrupt(Callback):
    """Send Ctrl-C in the first batch."""

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        signal.raise_signal(signal.SIGINT)
