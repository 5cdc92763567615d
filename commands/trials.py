"""What ``check``, ``throughput`` and ``encode`` take out of a trainer, for they keep nothing."""

from __future__ import annotations

from typing import Any

from jsonargparse import Namespace
from lightning.pytorch.callbacks import Checkpoint, OnExceptionCheckpoint, ProgressBar
from lightning.pytorch.loggers.logger import DummyLogger

TRIALS = ("check", "throughput", "encode")  # set up as fit, end by themselves, no run is left


def keep_nothing(trainer: Namespace, given: list[Any], own_bar: bool) -> list[Any]:
    """Have a trainer write neither logs nor checkpoints.

    Args:
        trainer: Its configuration; changed in place.
        given: The callbacks that the user asks for.
        own_bar: Whether the command shows itself how far it is.

    Returns:
        Those of the callbacks that stay.
    """
    if trainer.logger is not False:
        # Not none at all: some callbacks, such as LearningRateMonitor, refuse to go without.
        trainer.logger = DummyLogger()
    if own_bar:
        trainer.enable_progress_bar = trainer.enable_model_summary = False
        trainer.enable_checkpointing = False
        return [c for c in given if not isinstance(c, Checkpoint | ProgressBar)]
    # `check` ends by an exception. The others stay: a run that goes on has their states, too.
    return [c for c in given if not _saves_on_exception(c)]


def _saves_on_exception(callback: Any) -> bool:
    own = getattr(callback, "save_on_exception", False)  # of a ModelCheckpoint
    return isinstance(callback, OnExceptionCheckpoint) or bool(own)
