"""Progress: steps of the whole run, in lines or a bar, at almost no cost."""

from __future__ import annotations

import io
import logging
import re
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor

from callbacks.training.progress import Progress
from tests.callbacks.tiny import Tiny, loader, trainer


class Logging(Tiny):
    """A model that logs a value for the bar, and one not for it."""

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        loss = super().training_step(batch, batch_idx)
        self.log("train/loss", loss)
        self.log("train/secret", loss)
        return loss

    def predict_step(self, batch: dict[str, Any], batch_idx: int) -> dict[str, Tensor]:
        return self.validation_step(batch, batch_idx)


class Every(Progress):
    every_n_seconds = 0.0


class Terminal(io.StringIO):
    """A stream that collects the drawn text."""

    def isatty(self) -> bool:
        return True


def lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [r.getMessage() for r in caplog.records if r.name == "files.progress"]


@pytest.fixture(autouse=True)
def _heard(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="files.progress")


# ------------------------------------------------------------------------------------ log lines


def test_lines_where_there_is_no_terminal(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    trainer(tmp_path, Every(), max_steps=4, max_epochs=-1).fit(Logging(), loader())
    form = r"fit: step \d of 4, +[\d.]+(?:step/s|s/step), \d+:\d\d left, train/loss=[\d.e-]+"
    assert all(re.fullmatch(form, line) for line in lines(caplog)[1:])
    assert [line.split(" of ")[0] for line in lines(caplog)] == [
        *(f"fit: step {step}" for step in (0, 1, 2, 3, 4)),
        "fit: step 4",  # the closing one
    ]
    assert "%|" not in capsys.readouterr().err  # no bar


# ---------------------------------------------------------------------------------- what is counted


def test_steps_are_counted_not_batches(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    run = trainer(tmp_path, Every(), max_epochs=2, accumulate_grad_batches=3)
    run.fit(Logging(), loader())
    assert lines(caplog)[-1].startswith("fit: step 4 of 4")  # 4 batches an epoch: 3 and 1


# --------------------------------------------------------------------------------------- a terminal


def test_a_bar_in_a_terminal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    trainer(tmp_path, Progress(), max_epochs=2).fit(Logging(), loader(), loader())
    drawn = re.split(r"[\r\n]", terminal.getvalue())
    assert any(re.match(r"fit: +0%.*0/8", line) for line in drawn)
    assert any(re.match(r"validate:.*4/4", line) for line in drawn)
    last = [line for line in drawn if line.startswith("fit")][-1]
    assert re.match(r"fit: 100%.*8/8 .*train/loss", last)
    assert "secret" not in last
    assert lines(caplog) == []  # not both
