"""Private names of Lightning that no quick run of a command would miss."""

from __future__ import annotations

from typing import Any

from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import OnExceptionCheckpoint
from lightning.pytorch.trainer.states import TrainerFn

from commands import lightning_internals as internals
from tests.callbacks.tiny import Tiny, loader, trainer


class During(Callback):
    """Call a function before the third step."""

    def __init__(self, call: Any) -> None:
        self.call, self.found = call, None

    def on_train_batch_start(self, trainer: Trainer, *args: Any) -> None:
        if trainer.global_step == 2:
            self.found = self.call(trainer)


def train(call: Any) -> Any:
    """Train a small model for an epoch; return the result of the call."""
    during = During(call)
    trainer(".", during).fit(Tiny(), loader())
    return during.found


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

    assert train(restore) == 3.0


def test_set_logged_step() -> None:
    def change(trainer: Trainer) -> Any:
        loop = trainer.fit_loop.epoch_loop
        before, loop._batches_that_stepped = loop._batches_that_stepped, 7
        internals.set_logged_step(trainer)
        return before, loop._batches_that_stepped

    assert train(change) == (2, 2)


def test_end_restart() -> None:
    def change(trainer: Trainer) -> Any:
        trainer.fit_loop._restarting = True
        before = trainer.fit_loop.restarting
        internals.end_restart(trainer)
        return before, trainer.fit_loop.restarting

    assert train(change) == (True, False)
