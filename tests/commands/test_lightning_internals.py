"""Lightning still has the private names that we replace: without them nothing would be replaced."""

from __future__ import annotations

from lightning.pytorch import Trainer
from lightning.pytorch.loops.training_epoch_loop import _TrainingEpochLoop


def test_the_names_are_there() -> None:
    assert hasattr(_TrainingEpochLoop, "_broadcast_sigterm_tensor")
    trainer = Trainer(accelerator="cpu", devices=1, logger=False, enable_checkpointing=False)
    assert type(trainer.fit_loop.epoch_loop) is _TrainingEpochLoop
    assert hasattr(trainer.fit_loop.epoch_loop, "_batches_that_stepped")
    for name in ("register_signal_handlers", "teardown", "received_sigterm"):
        assert hasattr(trainer._signal_connector, name)
