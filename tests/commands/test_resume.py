"""A stopped and resumed run ends with the weights of an uninterrupted one."""

import os
import shutil
import signal
import time
from pathlib import Path

import pytest
import torch
import yaml
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import BaseFinetuning

from lightning_modules import Regression
from lightning_modules.methods.regression import NetworkCallable
from tests.conftest import REPO
from tests.distributed import records
from tests.distributed.processes import ends, start

FIT = "fit --config tiny.yaml"


class Interruption(Callback):
    """Raise, or act, once, at a hook of the n-th batch; armed by its class attributes."""

    hook = ""
    batch = 0

    def act(self):
        raise RuntimeError("interrupted")

    def at(self, hook, trainer):
        cls = type(self)
        batch = trainer.fit_loop.epoch_loop.batch_progress.total.ready
        if hook == cls.hook and batch == cls.batch and not trainer.sanity_checking:
            cls.hook = ""
            self.act()

    def on_train_batch_start(self, trainer, *args):
        self.at("batch_start", trainer)

    def on_before_backward(self, trainer, *args):
        self.at("backward", trainer)

    def on_train_batch_end(self, trainer, *args):
        self.at("batch_end", trainer)

    def on_validation_batch_start(self, trainer, *args):
        self.at("validation", trainer)

    def on_train_epoch_end(self, trainer, pl_module):
        self.at("epoch_end", trainer)


INTERRUPTED = f"--trainer.callbacks+ {__name__}.Interruption"


def newest(run):
    return records.newest(Path("runs", run))


def assert_same(one, other):
    """Assert that the newest checkpoints of two runs have the same bits."""
    a = newest(one)
    b = newest(other)
    records.assert_same(a, b)
    # The loops' other counters are not used; that of zero_grad differs after a step that was cut
    # short.
    for part in ("epoch_loop.batch_progress", "epoch_progress", "epoch_loop.state_dict"):
        assert a["loops"]["fit_loop"][part] == b["loops"]["fit_loop"][part]


def wait_until(is_so, process):
    """Wait until something is so, for two minutes at most, while a process runs."""
    deadline = time.monotonic() + 120  # a busy machine takes long to start
    while not is_so():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.002)


STOPS = yaml.safe_load(Path(__file__).with_name("stops.yaml").read_text())


def stops(kind):
    """The moments of a kind in stops.yaml; those that are not quick are for the night."""
    rows = []
    for name, stop in STOPS[kind].items():
        marks = () if stop.get("quick") else pytest.mark.slow
        rows.append(pytest.param(stop, id=name, marks=marks))
    return rows


@pytest.mark.parametrize("stop", stops("exceptions"))
def test_a_run_resumed_after_an_exception_equals_an_uninterrupted_one(tiny, enlarger, fitted, stop):
    options = stop.get("options", "")
    command = f"{FIT} {INTERRUPTED} {options} --run.name stopped"
    Interruption.hook = stop["at"]
    Interruption.batch = stop["batch"]
    with pytest.raises(RuntimeError, match="interrupted"):
        enlarger(command)

    enlarger(command)

    # Without workers, which change no bit.
    fitted(options.replace("--data.workers 2", ""), name="whole")
    assert_same("stopped", "whole")


@pytest.mark.slow
def test_a_run_resumed_after_sigkill_equals_an_uninterrupted_one(tiny):
    """The quickstart configuration, made small, killed in the middle of its second epoch."""
    small = """--data.crops.per_image 4 --data.batch_size 8 --data.crop_size 32 --data.val null
        --trainer.max_steps 10 --trainer.val_check_interval null --trainer.log_every_n_steps 2
        --checkpoint.every_n_steps 1 --trainer.accelerator cpu --model.network.blocks 1"""
    experiment = REPO / "configs" / "experiment" / "quickstart.yaml"
    command = f"fit --config {experiment} {small} --run.name"
    process = start(f"{command} killed")
    try:
        checkpoints = Path("runs/killed/checkpoints")
        wait_until(lambda: list(checkpoints.glob("step-00000000[89].ckpt")), process)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL

    for name in ("killed", "whole"):
        ((status, said),) = ends([start(f"{command} {name}")])
        assert status == 0, said

    assert_same("killed", "whole")


# ------------------------------------------------------------------------- schedules and callbacks


@pytest.mark.parametrize("hook", ["validation", pytest.param("epoch_end", marks=pytest.mark.slow)])
def test_early_stopping_counts_an_epoch_whose_end_was_interrupted(tiny, enlarger, hook):
    """Patience ends after the second epoch of 5 steps: with `min_delta`, nothing is ever better."""
    early = """'{class_path: lightning.pytorch.callbacks.EarlyStopping,
        init_args: {monitor: val/psnr, mode: max, min_delta: 99, patience: 1}}'"""
    command = f"{FIT} --trainer.callbacks callbacks.PSNR --trainer.callbacks+ {early} {INTERRUPTED}"
    Interruption.hook = hook
    Interruption.batch = 5
    with pytest.raises(RuntimeError, match="interrupted"):
        enlarger(command)
    enlarger(command)
    assert newest("tiny")["global_step"] == 10  # not 12, the max_steps of tiny.yaml


@pytest.mark.slow
@pytest.mark.parametrize("stopped_after", [4, 7])
def test_a_metric_read_at_the_end_of_an_epoch_is_kept_by_a_resume(tiny, enlarger, stopped_after):
    """Validated every 3 steps; early stopping and the schedule read it after epochs of 5.

    A run that stops after step 4 or 7 must still have the PSNR of step 3 or 6 at the end of its
    epoch, which no validation since has logged: checkpoints keep it under `awaited`.
    """
    plateau = """'{class_path: lightning.pytorch.cli.ReduceLROnPlateau,
        init_args: {monitor: val/psnr, mode: max, threshold: 99, patience: 0}}'"""
    early = """'{class_path: lightning.pytorch.callbacks.EarlyStopping, init_args: {
        monitor: val/psnr, mode: max, min_delta: -99, check_on_train_epoch_end: true}}'"""
    every = "--trainer.val_check_interval 3 --trainer.check_val_every_n_epoch null"
    callbacks = f"--trainer.callbacks callbacks.PSNR --trainer.callbacks+ {early}"
    command = f"{FIT} {every} {callbacks} --model.lr_scheduler {plateau} --run.name"

    enlarger(f"{command} whole")
    enlarger(f"{command} halves --trainer.max_steps {stopped_after}")
    enlarger(f"{command} halves")

    assert_same("halves", "whole")
    assert newest("whole")["callbacks"]["Checkpoints"]["awaited"].keys() == {"val/psnr"}


@pytest.mark.slow
@pytest.mark.parametrize("stopped_after", [6, 7])
def test_a_schedule_of_accumulation_is_resumed(tiny, enlarger, stopped_after):
    """5 steps in the first epoch, then 3, of 2, 2 and 1 batches."""
    schedule = """'{class_path: lightning.pytorch.callbacks.GradientAccumulationScheduler,
        init_args: {scheduling: {0: 1, 1: 2}}}'"""
    command = f"{FIT} --trainer.callbacks+ {schedule} --run.name"
    enlarger(f"{command} whole")
    enlarger(f"{command} halves --trainer.max_steps {stopped_after}")
    enlarger(f"{command} halves")
    assert_same("halves", "whole")


class Unfreezes(BaseFinetuning):
    """Train the body from the second epoch on, at a rate that each epoch changes."""

    def freeze_before_training(self, pl_module):
        self.freeze(pl_module.network.body)

    def finetune_function(self, pl_module, epoch, optimizer):
        if epoch == 1:
            self.unfreeze_and_add_param_group(pl_module.network.body, optimizer, lr=1e-4)
        elif epoch > 1:
            optimizer.param_groups[-1]["lr"] *= 1.5


@pytest.mark.parametrize("resumed_from", [5, pytest.param(8, marks=pytest.mark.slow), 10])
def test_what_a_callback_unfroze_is_trained_after_a_resume(tiny, enlarger, resumed_from):
    """Epochs have five steps; after 5 and 10, the callback has not yet begun the next epoch."""
    keep = "--checkpoint.every_n_steps 1 --checkpoint.keep_last 12"
    command = f"{FIT} --trainer.callbacks+ {__name__}.Unfreezes {keep} --run.name"
    enlarger(f"{command} whole")
    shutil.copytree("runs/whole", "runs/stopped")
    for path in Path("runs/stopped/checkpoints").glob("step-*"):
        if int(path.name[5:14]) > resumed_from:  # step-000000008.ckpt, and its checksum
            path.unlink()

    enlarger(f"{command} stopped")

    averaged = newest("stopped")["callbacks"]["EMA"]["weights"]
    assert "network.body.0.body.0.weight" in averaged  # unfrozen, so averaged
    for part in ("state_dict", "optimizer_states"):
        assert_equal(newest("stopped")[part], newest("whole")[part])
    assert_equal(averaged, newest("whole")["callbacks"]["EMA"]["weights"])


def assert_equal(one, other):
    torch.testing.assert_close(one, other, rtol=0, atol=0)


class UnfreezesAndStops(Unfreezes):
    """A SIGTERM ends the second epoch of the first run, which the file `sent` notes."""

    def on_train_epoch_end(self, trainer, pl_module):
        if trainer.current_epoch == 1 and not Path("sent").exists():
            Path("sent").touch()
            os.kill(os.getpid(), signal.SIGTERM)


def test_a_stop_between_two_epochs_comes_before_callbacks_begin_the_next(tiny, enlarger):
    """Else both runs would begin the third epoch, and its rate would grow by 1.5 twice."""
    callback = f"--trainer.callbacks+ {__name__}.UnfreezesAndStops"
    command = f"{FIT} --data.val null {callback} --run.name"  # nothing is between the epochs
    with pytest.raises(SystemExit):
        enlarger(f"{command} stopped")
    enlarger(f"{command} stopped")
    enlarger(f"{command} whole")
    for part in ("state_dict", "optimizer_states"):
        assert_equal(newest("stopped")[part], newest("whole")[part])


class Lightning(Regression):
    """A method in Lightning's style.

    Args:
        scale: Factor.
        network: The network.
    """

    def __init__(self, scale: float, network: NetworkCallable, **kwargs):
        super().__init__(scale, network, **kwargs)
        self.save_hyperparameters()
        self.example_input_array = torch.rand(1, 3, 8, 8)
        self.network.body.eval()

    def on_train_start(self):
        """Check that a part stays in the mode that the constructor set."""
        assert not self.network.body.training

    def configure_optimizers(self):
        """Return the method's own optimiser."""
        return torch.optim.SGD(self.parameters(), lr=0.01)


def test_a_method_in_lightnings_style_is_resumed(tiny, enlarger, caplog):
    """It has an example for the summary, saved hyperparameters, an optimiser of its own and `eval`.

    The log says that the schedule set in tiny.yaml is not used.
    """
    model = f"--model {__name__}.Lightning --trainer.enable_model_summary true"
    for steps in (4, 8):
        options = f"--trainer.max_steps {steps} --run.change true --trainer.logger true"
        enlarger(f"{FIT} {model} {options}")
    assert "resuming the run in runs/tiny from" in caplog.text
    assert newest("tiny")["global_step"] == 8
    assert newest("tiny")["hyper_parameters"]["scale"] == 2.0
    assert "model.init_args.lr_scheduler has no effect" in caplog.text
    assert "model.init_args.optimizer has no effect" not in caplog.text  # tiny.yaml sets none


# --------------------------------------------------------------------------------- what is said


def test_a_resume_allows_moved_images_and_refuses_changed_ones(
    fitted, photo_folder, enlarger, refusal
):
    fitted("--trainer.max_steps 2")
    shutil.copytree(photo_folder, "moved")
    enlarger(f"{FIT} --data.train.root moved --trainer.max_steps 3")
    shutil.copy("moved/1.png", "moved/0.png")  # another image of that name
    sentence = refusal(f"{FIT} --data.train.root moved --trainer.max_steps 4")
    assert "the hash of some files of data.train was" in sentence
