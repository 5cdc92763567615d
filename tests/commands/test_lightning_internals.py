"""Private names of Lightning that no quick run of a command would miss."""

from __future__ import annotations

from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import OnExceptionCheckpoint
from lightning.pytorch.trainer.states import TrainerFn
from torch.utils.data import DataLoader

from commands import lightning_internals as internals

STEPS = 4


class Small(LightningModule):
    """One weight, a plateau schedule, and a logged value."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(1))

    def training_step(self, batch: torch.Tensor, batch_idx: int) -> torch.Tensor:
        return (self.weight * batch).mean()

    def validation_step(self, batch: torch.Tensor, batch_idx: int) -> None:
        self.log("val/value", self.weight.mean())

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.SGD(self.parameters(), lr=0.1)
        schedule = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer)
        watched = {"scheduler": schedule, "monitor": "val/value", "strict": False}
        return {"optimizer": optimizer, "lr_scheduler": watched}


class During(Callback):
    """Call a function before the third step."""

    def __init__(self, call: Any) -> None:
        self.call, self.found = call, None

    def on_train_batch_start(self, trainer: Trainer, *args: Any) -> None:
        if trainer.global_step == 2:
            self.found = self.call(trainer)


def train(call: Any = lambda trainer: None, **options: Any) -> tuple[Small, Trainer, Any]:
    """Train a small model for an epoch; return model, trainer and the result of the call."""
    during, model = During(call), Small()
    trainer = Trainer(
        accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, num_sanity_val_steps=0, max_epochs=1,
        callbacks=[during, *options.pop("callbacks", [])], **options,
    )  # fmt: skip
    loader = DataLoader(torch.ones(STEPS, 1))
    trainer.fit(model, loader, DataLoader(torch.ones(1, 1)))
    return model, trainer, during.found


def test_load_only_given_checkpoint(tmp_path: Any) -> None:
    kept = OnExceptionCheckpoint(tmp_path)
    train(lambda trainer: trainer.save_checkpoint(kept.ckpt_path))
    for given, expected in ((False, kept.ckpt_path), (True, None)):
        other = Trainer(
            logger=False, accelerator="cpu", callbacks=[OnExceptionCheckpoint(tmp_path)]
        )
        if given:
            internals.load_only_given_checkpoint(other)
        other.state.fn = TrainerFn.FITTING
        choose = other._checkpoint_connector._parse_ckpt_path
        chosen = choose(TrainerFn.FITTING, None, model_provided=True, model_connected=True)
        assert (chosen and str(chosen)) == expected


def test_restore_logged_values() -> None:
    def restore(trainer: Trainer) -> Any:
        internals.restore_logged_values(trainer, {"val/other": 3.0})
        return float(trainer.callback_metrics["val/other"])

    assert train(restore)[2] == 3.0


def test_set_logged_step() -> None:
    def change(trainer: Trainer) -> Any:
        loop = trainer.fit_loop.epoch_loop
        before, loop._batches_that_stepped = loop._batches_that_stepped, 7
        internals.set_logged_step(trainer)
        return before, loop._batches_that_stepped

    assert train(change)[2] == (2, 2)


def test_end_restart() -> None:
    def change(trainer: Trainer) -> Any:
        trainer.fit_loop._restarting = True
        before = trainer.fit_loop.restarting
        internals.end_restart(trainer)
        return before, trainer.fit_loop.restarting

    assert train(change)[2] == (True, False)
