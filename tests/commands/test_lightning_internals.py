"""Private names of Lightning that no quick run of a command would miss."""

from __future__ import annotations

from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import OnExceptionCheckpoint
from lightning.pytorch.trainer.states import TrainerFn

from commands import lightning_internals as internals
from tests.callbacks.tiny import Tiny, loader, trainer


def test_load_only_given_checkpoint(tmp_path: Any) -> None:
    kept = OnExceptionCheckpoint(tmp_path)
    run = trainer(tmp_path)
    run.fit(Tiny(), loader())
    run.save_checkpoint(kept.ckpt_path)
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
