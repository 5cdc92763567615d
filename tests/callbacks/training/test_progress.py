"""Progress: Lightning's bar in a terminal, lines elsewhere."""

from __future__ import annotations

import io
import logging
import re

import pytest

from callbacks.training import progress
from callbacks.training.progress import Lines, progress_bar
from tests.callbacks.tiny import Tiny, loader, trainer


class Logging(Tiny):
    """A model that logs its loss."""

    def training_step(self, batch, batch_idx):
        loss = super().training_step(batch, batch_idx)
        self.log("train/loss", loss)
        return loss

    predict_step = Tiny.validation_step


@pytest.fixture(autouse=True)
def _each_batch(caplog, monkeypatch):
    caplog.set_level(logging.INFO, logger=progress.__name__)
    monkeypatch.setattr(progress, "EVERY", 0.0)


def lines(caplog):
    return [r.getMessage() for r in caplog.records if r.name == progress.__name__]


def test_lines_count_the_steps_of_the_run(tmp_path, caplog):
    run = trainer(tmp_path, Lines(), max_epochs=2, accumulate_grad_batches=3)

    run.fit(Logging(), loader())  # 4 batches an epoch: a step of 3 and one of 1

    for step, line in enumerate(lines(caplog), 1):
        assert re.fullmatch(rf"fit: step {step} of 4, [\d.e+]+ a second, \d:\d\d:\d\d left", line)
    assert len(lines(caplog)) == 4


@pytest.mark.parametrize("command", ["validate", "test", "predict"])
def test_lines_count_the_batches_of_all_loaders(tmp_path, caplog, command):
    run = trainer(tmp_path, Lines())

    getattr(run, command)(Logging(), [loader(), loader()])

    done = [line.split(",")[0] for line in lines(caplog)]
    # 4 batches of each loader; the first batch has no pace yet.
    assert done == [f"{command}: batch {number} of 8" for number in range(2, 9)]


class Terminal(io.StringIO):
    """A stream that collects the drawn text."""

    def isatty(self):
        return True


def test_a_terminal_has_a_bar_and_no_lines(tmp_path, monkeypatch, caplog):
    terminal = Terminal()
    monkeypatch.setattr("sys.stdout", terminal)
    run = trainer(tmp_path, progress_bar(), max_epochs=2, log_every_n_steps=4)

    run.fit(Logging(), loader())

    drawn = re.split(r"[\r\n]", terminal.getvalue())
    last = [line for line in drawn if line.startswith("Epoch 1")][-1]
    # Epochs are counted from 0; 2 of 4 batches are 8 steps.
    assert re.match(r"Epoch 1: 100%.*4/4 .*step=8, loss=\d", last)
    assert lines(caplog) == []
