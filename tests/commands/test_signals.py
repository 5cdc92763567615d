"""A signal at any moment: the run stops between two steps, and resumes exactly."""

import contextlib
import json
import os
import signal
from pathlib import Path

import pytest
from lightning.pytorch import Callback

from commands.run.files import newest_whole
from tests.commands.test_resume import Interruption, assert_same, newest, stops, wait_until
from tests.distributed.processes import start

TERM = signal.SIGTERM
USR1 = signal.SIGUSR1
INT = signal.SIGINT
FIT = f"fit --config tiny.yaml --trainer.callbacks+ {__name__}.Send"


def callback(cls):
    return f"--trainer.callbacks+ {__name__}.{cls.__name__}"


class Send(Interruption):
    """Send a signal to this process once, at a hook of the n-th batch; armed by the test."""

    number = 0
    images = 0  # validated so far

    def act(self):
        os.kill(os.getpid(), Send.number)

    def on_before_optimizer_step(self, trainer, *args):
        self.at("optimizer_step", trainer)

    def on_validation_batch_end(self, trainer, *args):
        Send.images += 1
        self.at("validated", trainer)

    def on_save_checkpoint(self, trainer, *args):
        self.at("save", trainer)


def send(enlarger, number, options, at, batch):
    """Run `fit` until the signal comes; all handlers of signals are put back."""
    Send.hook = at
    Send.batch = batch
    Send.number = number
    Send.images = 0
    before = {number: signal.getsignal(number) for number in (TERM, USR1, INT)}
    with pytest.raises(SystemExit, match=str(128 + number)):
        enlarger(f"{FIT} {options}")
    assert Send.hook == ""
    assert {number: signal.getsignal(number) for number in before} == before


@pytest.mark.parametrize("stop", stops("signals"))
def test_training_stopped_by_a_signal_goes_on_as_an_uninterrupted_run(tiny, enlarger, fitted, stop):
    """A row of stops.yaml is ``in a step: {signal: SIGUSR1, at: backward, batch: 8, newest: 8}``.

    The signal comes in the backward pass of batch 8, which is finished: the checkpoint that is
    `newest` then is of step 8.
    """
    options = stop.get("options", "")
    number = signal.Signals[stop["signal"]]
    send(enlarger, number, f"--run.name stopped {options}", stop["at"], stop["batch"])
    written = newest_whole(Path("runs/stopped/checkpoints"))
    if stop["newest"] is None:  # the signal came before any checkpoint
        assert written is None
    else:
        assert written.name == f"step-{stop['newest']:09d}.ckpt"

    enlarger(f"{FIT} --run.name stopped {options}")

    fitted(options, name="whole")
    assert_same("stopped", "whole")
    stopped = ranking("stopped")
    whole = ranking("whole")
    assert stopped["scores"] == whole["scores"]
    assert stopped["best"] == whole["best"]


def ranking(run):
    return json.loads(Path("runs", run, "checkpoints/best.json").read_text())


def test_a_validation_is_left_at_once_and_what_it_measured_is_not_ranked(tiny, enlarger):
    """Each has two images; the signal comes after the first one of that after step 4."""
    send(enlarger, TERM, "--trainer.val_check_interval 2", at="validated", batch=4)
    assert Send.images == 2 + 2 + 1  # the sanity check's, the first validation's, and one
    assert set(ranking("tiny")["scores"]) == {"step-000000002.ckpt"}


class AtFirstImage(Callback):
    """A signal in the first image."""

    def on_validation_batch_end(self, *args):
        os.kill(os.getpid(), TERM)

    on_test_batch_end = on_validation_batch_end


@pytest.mark.parametrize("verb", ["validate", "test"])
def test_a_stopped_evaluation_writes_no_results(trained, enlarger, verb):
    with pytest.raises(SystemExit, match="143"):  # 128 + SIGTERM
        enlarger(f"{verb} --config tiny.yaml {callback(AtFirstImage)}")
    assert not (trained / "results.json").exists()


class WithinSecondImage(Callback):
    """A signal while the network enlarges the second image."""

    def on_predict_batch_start(self, trainer, pl_module, batch, batch_idx):
        if batch_idx == 1:
            network = pl_module.network
            network.register_forward_pre_hook(lambda *_: os.kill(os.getpid(), TERM))
            network.register_forward_hook(lambda *_: pytest.fail("it ended the image"))


def test_predict_stops_within_an_image_and_goes_on(trained, enlarger, photo_folder, caplog):
    predict = f"predict --config tiny.yaml --data.predict {photo_folder} --writer.folder out"
    with pytest.raises(SystemExit, match="143"):  # 128 + SIGTERM
        enlarger(f"{predict} {callback(WithinSecondImage)}")
    # predictions.jsonl, and the first image.
    assert sorted(path.suffix for path in Path("out").iterdir()) == [".jsonl", ".png"]
    enlarger(predict)
    assert "9 written, 1 skipped" in caplog.text  # of 10


class TwiceInFourthBatch(Callback):
    """Ctrl-C twice."""

    def on_train_batch_start(self, trainer, *args):
        if trainer.global_step == 3:
            os.kill(os.getpid(), INT)
            os.kill(os.getpid(), INT)


def test_a_second_ctrl_c_stops_at_once(tiny, enlarger, monkeypatch):
    # Else two within a second count as one.
    monkeypatch.setattr("commands.signals.REPEAT_SECONDS", -1.0)
    with pytest.raises(SystemExit, match="130"):  # 128 + SIGINT
        enlarger(f"fit --config tiny.yaml {callback(TwiceInFourthBatch)}")
    assert not Path("runs/tiny/checkpoints").exists()  # the first would write one


@pytest.mark.slow
@pytest.mark.parametrize("number", [TERM, USR1, INT])
def test_a_signal_to_the_whole_process_group_stops_training_after_a_checkpoint(tiny, number):
    """As torchrun, SLURM and a terminal send it: DataLoader workers get it, too."""
    options = "--data.workers 2 --trainer.max_steps 1000000 --checkpoint.every_n_steps 20"
    process = start(f"fit --config tiny.yaml {options}")
    try:
        wait_until(lambda: list(Path("runs/tiny/checkpoints").glob("step-*.ckpt")), process)
        os.killpg(process.pid, number)
        said, _ = process.communicate(timeout=100)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == 128 + number, said
    step = newest("tiny")["global_step"]
    assert f"after step {step}; the same command continues" in said
