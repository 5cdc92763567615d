"""A signal at any moment: the run stops between two steps, and resumes exactly."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch import Callback, Trainer

from commands.run.files import newest_whole
from tests.commands.test_resume import Interruption, assert_same, newest
from tests.conftest import REPO
from tests.quick import quick

Enlarger = Callable[..., None]
TERM, USR1, INT = signal.SIGTERM, signal.SIGUSR1, signal.SIGINT
FIT = ("fit", "--config", "tiny.yaml", "--trainer.callbacks+", f"{__name__}.Send")


class Send(Interruption):
    """Send a signal to this process once, at a hook of the n-th batch; armed by the test."""

    number = 0
    images = 0  # validated so far

    def act(self) -> None:
        os.kill(os.getpid(), Send.number)

    def on_before_optimizer_step(self, trainer: Trainer, *args: Any) -> None:
        self.at("optimizer_step", trainer)

    def on_validation_batch_end(self, trainer: Trainer, *args: Any) -> None:
        Send.images += 1
        self.at("validated", trainer)

    def on_save_checkpoint(self, trainer: Trainer, *args: Any) -> None:
        self.at("save", trainer)


def stop(enlarger: Enlarger, hook: str, batch: int, number: int, *args: object) -> None:
    Send.hook, Send.batch, Send.number, Send.images = hook, batch, number, 0
    before = {n: signal.getsignal(n) for n in (TERM, USR1, INT)}
    with pytest.raises(SystemExit) as stopped:
        enlarger(*FIT, *args)
    assert stopped.value.code == 128 + number
    assert Send.hook == ""
    assert {n: signal.getsignal(n) for n in before} == before


ACCUMULATE = ("--trainer.accumulate_grad_batches", 3)
EVERY_TWO = ("--trainer.val_check_interval", 2)
TWO_EPOCHS = ("--trainer.max_steps", -1, "--trainer.max_epochs", 2)
PLATEAU = (
    *("--model.init_args.lr_scheduler", "lightning.pytorch.cli.ReduceLROnPlateau"),
    *("--model.init_args.lr_scheduler.init_args.monitor", "val/psnr"),
    *("--model.init_args.lr_scheduler.init_args.mode", "max"),
    *("--model.init_args.lr_scheduler.init_args.threshold", 99),  # so that nothing is better
    *("--model.init_args.lr_scheduler.init_args.patience", 0),
)
# 20 crops in batches of 4 are 5 batches an epoch, 12 steps are 2.4 epochs. The newest checkpoint is
# that of the batch in which the signal came; in a validation it is an earlier one, if there is one.
CASES = {
    "before a batch": ("batch_start", 8, TERM, 8, ()),
    "in a step": ("backward", 8, USR1, 8, ()),
    "before the weights change": ("optimizer_step", 8, TERM, 8, ()),
    "after a step": ("batch_end", 8, INT, 8, ()),
    "in the last batch of an epoch": ("backward", 5, TERM, None, ()),
    "after an epoch": ("epoch_end", 5, TERM, 5, ()),
    "in an accumulation": ("backward", 7, TERM, 3, ACCUMULATE),
    "in an accumulation with a validation": ("backward", 7, TERM, 3, (*ACCUMULATE, *EVERY_TWO)),
    "while a checkpoint is written": ("save", 8, TERM, 7, EVERY_TWO),
    "in a validation": ("validated", 4, TERM, 2, EVERY_TWO),
    "in a validation that schedules watch": ("validated", 5, TERM, None, PLATEAU),
    "in the validation at an epoch's end": ("validated", 5, TERM, None, ()),
    "in the last validation": ("validated", 12, TERM, 9, EVERY_TWO),
    "in the validation of the last epoch": ("validated", 10, TERM, 5, TWO_EPOCHS),
}


@pytest.mark.parametrize(
    "case",
    quick(
        CASES,
        "in an accumulation with a validation",
        "in the last validation",
    ),
)
def test_stops_and_goes_on(
    tiny: Path, enlarger: Enlarger, fitted: Callable[..., Path], case: str
) -> None:
    hook, batch, number, step, extra = CASES[case]
    stop(enlarger, hook, batch, number, "--run.name", "stopped", *extra)
    written = newest_whole(Path("runs/stopped/checkpoints"))
    assert (written and int(written.name[5:14])) == step
    enlarger(*FIT, "--run.name", "stopped", *extra)
    fitted(*extra, name="whole")
    assert_same("stopped", "whole")
    ranked = [json.loads(Path("runs", n, "checkpoints/best.json").read_text()) for n in RUNS]
    assert ranked[0]["scores"] == ranked[1]["scores"]
    assert ranked[0]["best"] == ranked[1]["best"]


RUNS = ("stopped", "whole")


def test_a_validation_is_left_at_once_and_its_half_goes_nowhere(
    tiny: Path, enlarger: Enlarger
) -> None:
    stop(enlarger, "validated", 4, TERM, *EVERY_TWO)
    assert Send.images == 2 + 2 + 1  # the sanity check's, the first validation's, and one
    scores = json.loads(Path("runs/tiny/checkpoints/best.json").read_text())["scores"]
    assert set(scores) == {"step-000000002.ckpt"}


@pytest.mark.parametrize("verb", ["validate", "test"])
def test_in_an_evaluation(trained: Path, enlarger: Enlarger, verb: str) -> None:
    with pytest.raises(SystemExit) as stopped:
        enlarger(verb, *FIT[1:3], "--trainer.callbacks+", f"{__name__}.First")
    assert stopped.value.code == 143
    assert not (trained / "results.json").exists()


class First(Callback):
    """A signal in the first image."""

    def on_validation_batch_end(self, *args: Any) -> None:
        os.kill(os.getpid(), TERM)

    on_test_batch_end = on_validation_batch_end


def test_predict_stops_within_an_image_and_goes_on(
    trained: Path, enlarger: Enlarger, photo_folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    predict = ("predict", *FIT[1:3], "--data.predict", photo_folder, "--writer.folder", "out")
    with pytest.raises(SystemExit) as stopped:
        enlarger(*predict, "--trainer.callbacks+", f"{__name__}.Within")
    assert stopped.value.code == 143
    written = [path.suffix for path in Path("out").iterdir()]
    assert sorted(written) == [".jsonl", ".png"]
    enlarger(*predict)
    assert "9 written, 1 skipped" in caplog.text


class Within(Callback):
    """A signal while the network enlarges the second image."""

    def on_predict_batch_start(
        self, trainer: Trainer, pl_module: Any, batch: Any, batch_idx: int
    ) -> None:
        if batch_idx == 1:
            pl_module.network.register_forward_pre_hook(lambda *_: os.kill(os.getpid(), TERM))
            pl_module.network.register_forward_hook(lambda *_: pytest.fail("it ended the image"))


def test_a_second_ctrl_c_stops_at_once(
    tiny: Path, enlarger: Enlarger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("commands.signals.REPEAT_SECONDS", -1.0)
    with pytest.raises(SystemExit) as stopped:
        enlarger(*FIT[:3], "--trainer.callbacks+", f"{__name__}.Impatient")
    assert stopped.value.code == 130
    assert not Path("runs/tiny/checkpoints").exists()


class Impatient(Callback):
    """Ctrl-C twice in the fourth batch."""

    def on_train_batch_start(self, trainer: Trainer, *args: Any) -> None:
        if trainer.global_step == 3:
            os.kill(os.getpid(), INT)
            os.kill(os.getpid(), INT)


@pytest.mark.slow
@pytest.mark.parametrize("number", [TERM, USR1, INT])
def test_a_signal_to_all_processes_of_a_group(tiny: Path, number: int) -> None:
    """As torchrun, SLURM and a terminal send it: DataLoader workers get it, too."""
    command = [sys.executable, str(REPO / "main.py"), "fit", "--config", "tiny.yaml"]
    more = ["--data.init_args.workers", "2", "--trainer.max_steps", "1000000"]
    more += ["--checkpoint.every_n_steps", "20"]
    process = subprocess.Popen(
        [*command, *more],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        deadline = time.monotonic() + 200
        while not list(Path("runs/tiny/checkpoints").glob("step-*.ckpt")):
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.01)
        os.killpg(process.pid, number)
        _, said = process.communicate(timeout=100)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == 128 + number, said
    step = newest("tiny")["global_step"]
    assert f"after step {step}; the same command continues" in said
