"""A stopped and resumed run ends with the weights of an uninterrupted one."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from degradations.base import Stage
from degradations.draws import Draws, Params, per_image
from tests.conftest import REPO
from tests.distributed import records
from tests.quick import quick

Enlarger = Callable[..., None]
Fitted = Callable[..., Path]


class Interruption(Callback):
    """Raise, or act, once, at a hook of the n-th batch; armed by its class attributes."""

    hook = ""
    batch = 0

    def act(self) -> None:
        raise RuntimeError("interrupted")

    def at(self, hook: str, trainer: Trainer) -> None:
        here, own = trainer.fit_loop.epoch_loop.batch_progress.total.ready, type(self)
        if hook == own.hook and here == own.batch and not trainer.sanity_checking:
            own.hook = ""
            self.act()

    def on_train_batch_start(self, trainer: Trainer, *args: Any) -> None:
        self.at("batch_start", trainer)

    def on_before_backward(self, trainer: Trainer, *args: Any) -> None:
        self.at("backward", trainer)

    def on_train_batch_end(self, trainer: Trainer, *args: Any) -> None:
        self.at("batch_end", trainer)

    def on_validation_batch_start(self, trainer: Trainer, *args: Any) -> None:
        self.at("validation", trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.at("epoch_end", trainer)


def newest(run: str) -> dict[str, Any]:
    return records.newest(Path("runs", run))


def assert_same(one: str, other: str) -> None:
    a, b = newest(one), newest(other)
    records.assert_same(a, b)
    # The loops' other counters are not used; that of zero_grad differs after a step that was cut
    # short.
    for part in ("epoch_loop.batch_progress", "epoch_progress", "epoch_loop.state_dict"):
        assert a["loops"]["fit_loop"][part] == b["loops"]["fit_loop"][part]


# 20 crops in batches of 4 are 5 batches an epoch, 12 steps are 2.4 epochs.
CASES = {
    "in the middle of an epoch": (("backward", 8), ()),
    "before a batch": (("batch_start", 8), ()),
    "in the first batch of an epoch": (("backward", 6), ()),
    "after the last batch of an epoch": (("epoch_end", 5), ()),
    "in a validation": (("validation", 9), ("--trainer.val_check_interval", 4)),
    "in the validation at an epoch's end": (("validation", 5), ()),
    "with validation every few steps": (("backward", 9), ("--trainer.val_check_interval", 2)),
    "with validation across epochs": (
        ("backward", 9),
        ("--trainer.val_check_interval", 4, "--trainer.check_val_every_n_epoch", "null"),
    ),
    "between the batches of an accumulation": (
        ("backward", 9),
        ("--trainer.accumulate_grad_batches", 3, "--checkpoint.every_n_steps", 1),
    ),
    "at the first batch of an accumulation": (
        ("backward", 7),
        ("--trainer.accumulate_grad_batches", 3, "--checkpoint.every_n_steps", 1),
    ),
    "in a step, after the weights changed": (("batch_end", 9), ("--checkpoint.every_n_steps", 1)),
    "with workers": (("backward", 8), ("--data.init_args.workers", 2)),
}


@pytest.mark.parametrize(
    "case",
    quick(CASES, "in a step, after the weights changed"),
)
def test_after_an_exception(tiny: Path, enlarger: Enlarger, fitted: Fitted, case: str) -> None:
    (hook, batch), extra = CASES[case]
    command = [
        "fit",
        "--config",
        "tiny.yaml",
        "--trainer.callbacks+",
        "tests.commands.test_resume.Interruption",
    ]
    fitted(*(() if case == "with workers" else extra), name="whole")
    Interruption.hook, Interruption.batch = hook, batch
    with pytest.raises(RuntimeError, match="interrupted"):
        enlarger(*command, "--run.name", "stopped", *extra)
    enlarger(*command, "--run.name", "stopped", *extra)
    assert_same("stopped", "whole")


STOPS_EARLY = """[callbacks.PSNR, {class_path: lightning.pytorch.callbacks.EarlyStopping,
    init_args: {monitor: val/psnr, mode: max, min_delta: 99, patience: 1}}]"""


@pytest.mark.parametrize("hook", ["validation", pytest.param("epoch_end", marks=pytest.mark.slow)])
def test_what_an_epochs_end_decides_is_not_lost(tiny: Path, enlarger: Enlarger, hook: str) -> None:
    """Early stopping sees the epochs of 5 steps: nothing is better at the end of the second."""
    command: list[object] = ["fit", "--config", "tiny.yaml", "--trainer.callbacks", STOPS_EARLY]
    command += ["--trainer.callbacks+", f"{__name__}.Interruption"]
    Interruption.hook, Interruption.batch = hook, 5
    with pytest.raises(RuntimeError, match="interrupted"):
        enlarger(*command)
    enlarger(*command)
    assert newest("tiny")["global_step"] == 10


@pytest.mark.slow
@pytest.mark.parametrize("first", [4, 7, 9])
def test_values_that_are_waited_for(tiny: Path, enlarger: Enlarger, first: int) -> None:
    """With epochs of 5 steps, at whose end early stopping reads a value of another process."""
    (text := tiny / "tiny.yaml").write_text(
        re.sub(r"    lr_sch(.|\n)*?\n(?=data)", "", text.read_text())
    )
    command: list[object] = ["fit", "--config", "tiny.yaml", "--trainer.val_check_interval", 3]
    command += ["--trainer.check_val_every_n_epoch", "null", "--model.init_args.lr_scheduler"]
    command += [
        """{class_path: lightning.pytorch.cli.ReduceLROnPlateau, init_args: {
        monitor: val/psnr, mode: max, threshold: 99, patience: 0}}"""
    ]
    callbacks = """[callbacks.PSNR,
        {class_path: lightning.pytorch.callbacks.EarlyStopping, init_args: {
        monitor: val/psnr, mode: max, min_delta: -99, check_on_train_epoch_end: true}}]"""
    command += ["--trainer.callbacks", callbacks]
    enlarger(*command, "--run.name", "whole")
    enlarger(*command, "--run.name", "longer", "--trainer.max_steps", first)
    enlarger(*command, "--run.name", "longer")
    assert_same("longer", "whole")
    assert newest("whole")["callbacks"]["Checkpoints"]["awaited"].keys() == {"val/psnr"}


@pytest.mark.slow
@pytest.mark.parametrize("first", [6, 7, 8])
def test_a_schedule_of_accumulation(tiny: Path, enlarger: Enlarger, first: int) -> None:
    """5 steps in the first epoch, then 3, of 2, 2 and 1 batches."""
    schedule = """{class_path: lightning.pytorch.callbacks.GradientAccumulationScheduler,
        init_args: {scheduling: {0: 1, 1: 2}}}"""
    command = ["fit", "--config", "tiny.yaml", "--trainer.callbacks+", schedule]
    enlarger(*command, "--run.name", "whole")
    enlarger(*command, "--run.name", "halves", "--trainer.max_steps", first)
    enlarger(*command, "--run.name", "halves")
    assert_same("halves", "whole")


@pytest.mark.slow
def test_after_sigkill(tiny: Path, enlarger: Enlarger) -> None:
    """The quickstart configuration, made small, killed in the middle of its second epoch."""
    overlay = [
        *("--data.init_args.crops.per_image", "4", "--data.init_args.batch_size", "8"),
        *("--data.init_args.crop_size", "32", "--data.init_args.val", "null"),
        *(
            "--trainer.max_steps",
            "10",
            "--trainer.val_check_interval",
            "null",
            "--trainer.log_every_n_steps",
            "2",
        ),
        *("--checkpoint.every_n_steps", "1", "--trainer.accelerator", "cpu"),
        *("--model.init_args.network.init_args.blocks", "1"),
    ]
    experiment = REPO / "configs" / "experiment" / "quickstart.yaml"
    command = [sys.executable, str(REPO / "main.py"), "fit", "--config", str(experiment), *overlay]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    checkpoints = Path("runs/killed/checkpoints")

    process = subprocess.Popen(
        [*command, "--run.name", "killed"], env=environment, start_new_session=True
    )
    try:
        deadline = time.monotonic() + 120
        while not list(checkpoints.glob("step-00000000[89].ckpt")):
            assert process.poll() is None, "the run ended before it could be killed"
            assert time.monotonic() < deadline, "no checkpoint within two minutes"
            time.sleep(0.002)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    for name in ("killed", "whole"):
        subprocess.run([*command, "--run.name", name], env=environment, check=True)
    assert_same("killed", "whole")


class NotANumber(Stage):
    """Make all pixels of some images NaN."""

    def draw(self, draws: Draws, shape: torch.Size) -> Params:
        return {"wrong": draws.bernoulli(0.08)}

    def forward(self, x: torch.Tensor, params: Params) -> torch.Tensor:
        return torch.where(per_image(params["wrong"], x) > 0, torch.nan, x)


@pytest.mark.slow
@pytest.mark.parametrize("sanity", [0, 2])
def test_a_run_goes_on_at_a_step_that_guard_leaves_out(
    tiny: Path, enlarger: Enlarger, caplog: pytest.LogCaptureFixture, sanity: int
) -> None:
    """The first batch is checked, but not in a resumed process."""
    (tiny / "nan.yaml").write_text(
        f"degradation:\n  class_path: degradations.Pipeline\n  init_args:\n"
        f"    stages: [{{class_path: {__name__}.NotANumber}}]\n"
    )
    command = ["fit", "--config", "tiny.yaml", "--config", "nan.yaml"]
    command += ["--trainer.num_sanity_val_steps", str(sanity)]
    command += ["--trainer.callbacks+", "callbacks.Guard"]
    enlarger(*command, "--run.name", "whole")
    step = int(re.findall(r"left out the update of optimizer 0 in step (\d+)", caplog.text)[0]) - 1
    assert step > 0, "the first batch of the run has to be sound: take another probability"
    enlarger(*command, "--run.name", "halves", "--trainer.max_steps", step)
    enlarger(*command, "--run.name", "halves")
    assert_same("halves", "whole")


def test_weights_that_were_not_validated_are_named_after_a_resume_too(
    tiny: Path, enlarger: Callable[..., None], caplog: pytest.LogCaptureFixture
) -> None:
    for steps in (7, 8):
        enlarger("fit", "--config", "tiny.yaml", "--trainer.max_steps", steps)
        assert f"step {steps} were not validated" in caplog.text


def test_a_run_without_a_validation_set_names_no_weights_that_were_not_validated(
    tiny: Path, enlarger: Enlarger, caplog: pytest.LogCaptureFixture
) -> None:
    enlarger("fit", "--config", "tiny.yaml", "--trainer.max_steps", 2, "--data.val", "null")
    assert "were not validated" not in caplog.text


def test_photographs_that_were_moved(
    tiny: Path, photo_folder: Path, enlarger: Enlarger, refusal: Callable[..., str]
) -> None:
    """A path is not the data; other pixels under the same names are."""
    command = ("fit", "--config", "tiny.yaml", "--trainer.max_steps")
    enlarger(*command, 2)
    shutil.copytree(photo_folder, "moved")
    enlarger(*command, 3, "--data.train.root", "moved")
    first = Path("moved/0.png")
    shutil.copy("moved/1.png", first)
    sentence = refusal(*command, 4, "--data.train.root", "moved")
    assert "the hash of some files of data.train was" in sentence
