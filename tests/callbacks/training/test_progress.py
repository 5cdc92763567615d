"""Progress: steps of the whole run, in lines or a bar, at almost no cost."""

from __future__ import annotations

import io
import logging
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, Trainer
from torch import Tensor

from callbacks.training.progress import Progress, _clock, _total_steps
from tests.callbacks import tiny
from tests.callbacks.tiny import Images, Tiny, loader


class Logging(Tiny):
    """A model that logs two values for the bar, and one not for it."""

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        loss = super().training_step(batch, batch_idx)
        self.log("train/loss", loss, prog_bar=True)
        self.log("train/secret", loss)
        return loss

    def predict_step(self, batch: dict[str, Any], batch_idx: int) -> dict[str, Tensor]:
        return self.validation_step(batch, batch_idx)


def trainer(root: Path, *callbacks: Callback, **arguments: Any) -> Trainer:
    bar = any(isinstance(callback, Progress) for callback in callbacks)
    return tiny.trainer(root, *callbacks, enable_progress_bar=bar, **arguments)


class Interruption(Callback):
    def on_train_batch_end(self, trainer: Trainer, *args: Any) -> None:
        if trainer.global_step == 3:
            raise RuntimeError("interrupted")


class Terminal(io.StringIO):
    """A stream that collects the drawn text."""

    def isatty(self) -> bool:
        return True


def lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [r.getMessage() for r in caplog.records if r.name == "callbacks.training.progress"]


@pytest.fixture(autouse=True)
def _heard(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="callbacks.training.progress")


# ------------------------------------------------------------------------------------ log lines


def test_lines_where_there_is_no_terminal(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    trainer(tmp_path, Progress(0), max_steps=4, max_epochs=-1).fit(Logging(), loader())
    form = r"fit: step \d of 4, [\d.]+ a second, \d+:\d\d left, train/loss [\d.e-]+"
    assert all(re.fullmatch(form, line) for line in lines(caplog))
    assert [line.split(" of ")[0] for line in lines(caplog)] == [
        *(f"fit: step {step}" for step in (1, 2, 3, 4)),
        "fit: step 4",  # the closing one
    ]
    assert "%|" not in capsys.readouterr().err  # no bar


def test_lines_come_now_and_then(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    trainer(tmp_path, Progress(1000), max_epochs=3).fit(Logging(), loader(), loader())
    closing = [re.sub(r",.*", "", line) for line in lines(caplog)]
    assert closing == [*["validate: batch 4 of 4"] * 3, "fit: step 12 of 12"]


def test_test_and_predict(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    run = trainer(tmp_path, Progress(1000))
    run.test(Logging(), [loader(), loader(Images(3))], verbose=False)
    run.predict(Logging(), loader(batch_size=1))
    closing = [re.sub(r",.*", "", line) for line in lines(caplog)]
    assert closing == ["test: batch 6 of 6", "predict: image 7 of 7"]


def test_the_sanity_check_is_not_reported(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    progress = Progress(0)
    run = trainer(tmp_path, progress, max_epochs=1, limit_val_batches=2, num_sanity_val_steps=2)
    run.fit(Logging(), loader(), loader())
    assert progress._bars == []
    assert len([line for line in lines(caplog) if line.startswith("validate")]) == 3


# ---------------------------------------------------------------------------------- what is counted


def test_steps_are_counted_not_batches(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    run = trainer(tmp_path, Progress(0), max_epochs=2, accumulate_grad_batches=3)
    run.fit(Logging(), loader())
    assert lines(caplog)[-1].startswith("fit: step 4 of 4")  # 4 batches an epoch: 3 and 1


def test_stands_where_the_run_stands_after_a_resume(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = trainer(tmp_path, max_steps=3, max_epochs=-1)
    first.fit(Logging(), loader())
    first.save_checkpoint(tmp_path / "3.ckpt")

    def again(progress: Progress) -> None:
        run = trainer(tmp_path, progress, max_steps=8, max_epochs=-1)
        run.fit(Logging(), loader(), ckpt_path=tmp_path / "3.ckpt", weights_only=True)

    again(Progress(0))
    assert lines(caplog)[0].startswith("fit: step 4 of 8")
    assert lines(caplog)[-1].startswith("fit: step 8 of 8")
    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    again(Progress())
    assert re.search(r"fit: +38%.* 3/8", terminal.getvalue().split("\r")[1])


def test_the_rate_is_of_this_process(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Steps before a resume do not count for this process's speed."""
    now = [100.0]
    monkeypatch.setattr("callbacks.training.progress.time.time", lambda: now[0])
    progress = Progress(0)
    progress._open("fit", 1000, "step", 900)
    now[0] += 10
    progress._bars[-1].n = 920
    progress.get_metrics = lambda *_: {}  # type: ignore[method-assign]
    progress._show(trainer(tmp_path))
    assert lines(caplog) == ["fit: step 920 of 1000, 2.00 a second, 0:40 left"]


@pytest.mark.parametrize(
    ("max_steps", "max_epochs", "batches", "accumulate", "expected"),
    [
        (100, -1, 10, 1, 100),
        (100, 2, 10, 1, 20),  # whichever comes first
        (100, 50, 10, 1, 100),
        (-1, 3, 10, 4, 9),
        (-1, -1, 10, 1, None),
        (-1, 3, float("inf"), 1, None),
    ],
)
def test_total(
    max_steps: int, max_epochs: int, batches: float, accumulate: int, expected: int | None
) -> None:
    class Limits:
        lightning_module = None

    limits: Any = Limits()
    limits.max_steps, limits.max_epochs = max_steps, max_epochs
    limits.num_training_batches, limits.accumulate_grad_batches = batches, accumulate
    assert _total_steps(limits) == expected


def test_only_one_process_tells(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    progress = Progress(0)
    run = trainer(tmp_path, progress, max_epochs=1)
    progress.disable()  # as Lightning does on all ranks but the first
    run.fit(Logging(), loader(), loader())
    assert lines(caplog) == []


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


def test_an_exception_closes_the_bars(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stderr", Terminal())
    progress = Progress()
    with pytest.raises(RuntimeError, match="interrupted"):
        trainer(tmp_path, progress, Interruption(), max_epochs=2).fit(Logging(), loader())
    assert progress._bars == []


def test_print_goes_above_the_bar(capsys: pytest.CaptureFixture[str]) -> None:
    Progress().print("a", 1)
    assert capsys.readouterr().err == "a 1\n"


# ------------------------------------------------------------------------------------ what it costs


def test_values_are_not_read_at_every_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Reading one waits for the device."""
    read = []
    get_metrics = Progress.get_metrics
    monkeypatch.setattr(
        Progress, "get_metrics", lambda self, *a: read.append(1) or get_metrics(self, *a)
    )
    trainer(tmp_path, Progress(1000), max_steps=30, max_epochs=-1).fit(Logging(), loader())
    assert len(read) == 1  # for the closing line


class Silent(Tiny):
    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        loss = super().training_step(batch, batch_idx)
        self.log("train/secret", loss)
        return loss


def test_adds_no_synchronisation_to_a_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def waits(*callbacks: Callback) -> int:
        count = [0]
        with monkeypatch.context() as patch:
            for name in ("item", "tolist", "__float__", "cpu"):
                original = getattr(torch.Tensor, name)

                def counted(self: Tensor, *args: Any, _call: Any = original, **kwargs: Any) -> Any:
                    count[0] += 1
                    return _call(self, *args, **kwargs)

                patch.setattr(torch.Tensor, name, counted)
            run = trainer(tmp_path, *callbacks, max_steps=20, max_epochs=-1, log_every_n_steps=1000)
            run.fit(Silent(), loader())
        return count[0]

    assert waits(Progress(1000)) <= waits() + 1


@pytest.mark.parametrize(
    ("seconds", "shown"), [(5.9, "0:05"), (65, "1:05"), (3661, "1:01:01"), (90061, "25:01:01")]
)
def test_clock(seconds: float, shown: str) -> None:
    assert _clock(seconds) == shown
