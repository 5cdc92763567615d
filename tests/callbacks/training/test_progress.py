"""Progress: Lightning's bar in a terminal, lines elsewhere."""

from __future__ import annotations

import io
import logging
import re

import pytest

from callbacks.training import progress
from callbacks.training.progress import Lines, progress_bar
from tests.callbacks.tiny import Images, Tiny, loader, trainer

FOUR_BATCHES = loader(Images(count=8), batch_size=2)


class Logging(Tiny):
    """A model that logs its loss."""

    def training_step(self, batch, batch_idx):
        loss = super().training_step(batch, batch_idx)
        self.log("train/loss", loss)
        return loss

    predict_step = Tiny.validation_step


@pytest.fixture(autouse=True)
def _a_line_each_batch(caplog, monkeypatch):
    caplog.set_level(logging.INFO, logger=progress.__name__)
    monkeypatch.setattr(progress, "EVERY", 0.0)  # seconds between two lines


def lines(caplog):
    return [r.getMessage() for r in caplog.records if r.name == progress.__name__]


def test_without_a_terminal_fit_logs_a_line_for_each_step(tmp_path, caplog):
    run = trainer(tmp_path, Lines(), max_epochs=2, accumulate_grad_batches=3)

    run.fit(Logging(), FOUR_BATCHES)

    assert len(lines(caplog)) == 4  # 2 epochs, each a step of 3 batches and one of 1
    for step, line in enumerate(lines(caplog), 1):
        assert re.fullmatch(rf"fit: step {step} of 4, [\d.e+]+ a second, \d:\d\d:\d\d left", line)


@pytest.mark.parametrize("command", ["validate", "test", "predict"])
def test_without_a_terminal_other_commands_log_a_line_for_each_batch(tmp_path, caplog, command):
    run = trainer(tmp_path, Lines())

    getattr(run, command)(Logging(), [FOUR_BATCHES, FOUR_BATCHES])

    done = [line.split(",")[0] for line in lines(caplog)]
    # 2 loaders of 4 batches; the first batch has no pace yet, and so no line.
    assert done == [f"{command}: batch {number} of 8" for number in range(2, 9)]


class Terminal(io.StringIO):
    """A terminal that collects what is drawn on it."""

    def isatty(self):
        return True


def test_a_terminal_shows_a_bar_with_step_and_loss_and_no_lines(tmp_path, monkeypatch, caplog):
    terminal = Terminal()
    monkeypatch.setattr("sys.stdout", terminal)
    run = trainer(tmp_path, progress_bar(), max_epochs=2, log_every_n_steps=4)

    run.fit(Logging(), FOUR_BATCHES)

    drawn = re.split(r"[\r\n]", terminal.getvalue())
    last = [line for line in drawn if line.startswith("Epoch 1")][-1]  # of epochs 0 and 1
    # 4 batches an epoch; 8 steps in all.
    assert re.match(r"Epoch 1: 100%.*4/4 .*step=8, loss=\d", last)
    assert lines(caplog) == []
