"""What users of Lightning bring along: finetuning callbacks, saved hyperparameters, schedules."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import BaseFinetuning
from torch.optim import Optimizer

import enlarger
from lightning_modules import EDSR, Regression
from lightning_modules.methods.regression import NetworkCallable
from tests.distributed.records import newest

Enlarger = Callable[..., None]
FIT = ("fit", "--config", "tiny.yaml")


class Unfreezes(BaseFinetuning):
    """Train the body from the second epoch on, at a rate that each epoch changes."""

    def freeze_before_training(self, pl_module: LightningModule) -> None:
        self.freeze(pl_module.network.body)

    def finetune_function(
        self, pl_module: LightningModule, epoch: int, optimizer: Optimizer
    ) -> None:
        if epoch == 1:
            self.unfreeze_and_add_param_group(pl_module.network.body, optimizer, lr=1e-4)
        elif epoch > 1:
            optimizer.param_groups[-1]["lr"] *= 1.5


@pytest.mark.parametrize("step", [5, pytest.param(8, marks=pytest.mark.slow), 10])
def test_what_a_callback_unfroze_is_trained_after_a_resume(
    tiny: Path, enlarger: Enlarger, step: int
) -> None:
    """Epochs have five steps; the end of one is resumed before the callback begins the next."""
    more = ("--trainer.callbacks+", f"{__name__}.Unfreezes", "--checkpoint.every_n_steps", 1)
    enlarger(*FIT, *more, "--checkpoint.keep_last", 12)
    whole = newest(Path("runs/tiny"))
    assert "network.body.0.body.0.weight" in whole["callbacks"]["EMA"]["weights"]
    shutil.copytree("runs/tiny", "runs/stopped")
    for path in Path("runs/stopped/checkpoints").glob("step-*"):
        if int(path.name[5:14]) > step:
            path.unlink()
    enlarger(*FIT, *more, "--checkpoint.keep_last", 12, "--run.name", "stopped")
    stopped = newest(Path("runs/stopped"))
    for part in ("state_dict", "optimizer_states"):
        torch.testing.assert_close(stopped[part], whole[part], rtol=0, atol=0)
    averages = [run["callbacks"]["EMA"]["weights"] for run in (stopped, whole)]
    torch.testing.assert_close(*averages, rtol=0, atol=0)


class Stopped(Unfreezes):
    """Stop the run once, after its second epoch."""

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.current_epoch == 1 and not Path("sent").exists():
            Path("sent").touch()
            os.kill(os.getpid(), signal.SIGTERM)


def test_a_callback_begins_an_epoch_once_if_the_run_stops_before_it(
    tiny: Path, enlarger: Enlarger
) -> None:
    more = ("--data.init_args.val", "null", "--trainer.callbacks+", f"{__name__}.Stopped")
    command = (*FIT, *more, "--run.name")
    with pytest.raises(SystemExit):
        enlarger(*command, "stopped")
    enlarger(*command, "stopped")
    enlarger(*command, "whole")

    stopped, whole = (newest(Path("runs", name)) for name in ("stopped", "whole"))
    for part in ("state_dict", "optimizer_states"):
        torch.testing.assert_close(stopped[part], whole[part], rtol=0, atol=0)


def test_what_a_callback_unfroze_is_trained_after_a_resume_in_python(
    tmp_path: Path, photo_folder: Path
) -> None:
    def fit(steps: int) -> None:
        images = enlarger.data(photo_folder, scale=2, crop_size=16, batch_size=4, workers=0)
        model = Regression(2, network=EDSR(2, blocks=1, channels=4))
        quiet: dict[str, Any] = {"enable_progress_bar": False, "logger": False}
        own = [Unfreezes()]
        enlarger.fit(
            model, images, run=tmp_path / "x", callbacks=own, max_steps=steps,
            accelerator="cpu", **quiet,
        )  # fmt: skip

    fit(8)

    fit(9)

    (optimizer,) = newest(tmp_path / "x")["optimizer_states"]
    assert len(optimizer["param_groups"]) == 2
    assert newest(tmp_path / "x")["global_step"] == 9


class Lightning(Regression):
    """A method in Lightning's style.

    Args:
        scale: Factor.
        network: The network.
    """

    def __init__(self, scale: float, network: NetworkCallable, **kwargs: Any) -> None:
        super().__init__(scale, network, **kwargs)
        self.save_hyperparameters()
        self.example_input_array = torch.rand(1, 3, 8, 8)
        self.network.body.eval()

    def on_train_start(self) -> None:
        """Check that a part stays in the mode that the constructor set."""
        assert not self.network.body.training

    def configure_optimizers(self) -> Any:
        """Return the method's own optimiser."""
        return torch.optim.SGD(self.parameters(), lr=0.01)


def test_a_method_in_lightnings_style(
    tiny: Path, enlarger: Enlarger, caplog: pytest.LogCaptureFixture
) -> None:
    """Its summary runs the example, and its checkpoint holds the plain hyperparameters alone."""
    style = ("--model", f"{__name__}.Lightning", "--trainer.enable_model_summary", "true")
    for steps in (4, 8):
        limits = ("--trainer.max_steps", steps, "--run.change", "true")
        enlarger(*FIT, *style, *limits, "--trainer.logger", "true")
    saved = newest(Path("runs/tiny"))
    assert saved["global_step"] == 8
    assert saved["hyper_parameters"]["scale"] == 2.0
    assert "model.init_args.lr_scheduler has no effect" in caplog.text
    assert "model.init_args.optimizer has no effect" not in caplog.text


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (("--model.init_args.optimizer", "torch.optim.Muon"), "2D parameters"),
        (("--model.init_args.weights", "meta.ckpt"), "no values"),
    ],
)
def test_check_refuses_what_would_fail_later(
    tiny: Path, refusal: Callable[..., str], arguments: tuple[object, ...], word: str
) -> None:
    network = EDSR(2, blocks=1, channels=8, global_skip=True).to("meta")
    torch.save({f"network.{k}": v for k, v in network.state_dict().items()}, "meta.ckpt")
    assert word in refusal("check", "--config", "tiny.yaml", *arguments)
