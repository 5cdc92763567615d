"""Progress: Lightning's bar in a terminal, lines elsewhere."""

from __future__ import annotations

import io
import logging
import re
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor

from callbacks.training import progress
from callbacks.training.progress import Lines, progress_bar
from tests.callbacks.tiny import Tiny, loader, trainer


class Logging(Tiny):
    """A model that logs its loss."""

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        loss = super().training_step(batch, batch_idx)
        self.log("train/loss", loss)
        return loss

    def predict_step(
        self, batch: dict[str, Any], batch_idx: int, dataloader_idx: int = 0
    ) -> dict[str, Tensor]:
        return self.validation_step(batch, batch_idx)


class Terminal(io.StringIO):
    """A stream that collects the drawn text."""

    def isatty(self) -> bool:
        return True


def lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [r.getMessage() for r in caplog.records if r.name == progress.__name__]


@pytest.fixture(autouse=True)
def _always(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    caplog.set_level(logging.INFO, logger=progress.__name__)
    monkeypatch.setattr(progress, "EVERY", 0.0)


def test_lines_count_the_steps_of_the_run(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    run = trainer(tmp_path, Lines(), max_epochs=2, accumulate_grad_batches=3)
    run.fit(Logging(), loader())  # 4 batches an epoch: 3 and 1
    form = r"fit: step \d of 4, [\d.e+]+ a second, \d:\d\d:\d\d left"
    assert all(re.fullmatch(form, line) for line in lines(caplog))
    assert [line.split(",")[0] for line in lines(caplog)] == [
        *("fit: step 1 of 4", "fit: step 2 of 4", "fit: step 3 of 4", "fit: step 4 of 4")
    ]


@pytest.mark.parametrize("command", ["validate", "test", "predict"])
def test_lines_count_the_batches_of_all_loaders(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, command: str
) -> None:
    run = trainer(tmp_path, Lines())
    getattr(run, command)(Logging(), [loader(), loader()])
    done = [line.split(",")[0] for line in lines(caplog)]
    assert done == [f"{command}: batch {number} of 8" for number in range(2, 9)]


def test_a_bar_in_a_terminal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    terminal = Terminal()
    monkeypatch.setattr("sys.stdout", terminal)
    trainer(tmp_path, progress_bar(), max_epochs=2, log_every_n_steps=4).fit(Logging(), loader())
    drawn = re.split(r"[\r\n]", terminal.getvalue())
    (*_, last) = [line for line in drawn if line.startswith("Epoch 1")]
    assert re.match(r"Epoch 1: 100%.*4/4 .*step=8, loss=\d", last)
    assert lines(caplog) == []
