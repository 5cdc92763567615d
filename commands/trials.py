"""Dry runs: ``check``, ``throughput`` and ``encode`` write no logs and no checkpoints."""

from __future__ import annotations

from typing import Any

from jsonargparse import Namespace
from lightning.pytorch.callbacks import Checkpoint, OnExceptionCheckpoint, ProgressBar
from lightning.pytorch.loggers.logger import DummyLogger

DRY_RUN_COMMANDS = ("check", "throughput", "encode")  # set up as fit, but leave no run


def without_outputs(trainer: Namespace, given: list[Any], own_bar: bool) -> list[Any]:
    """Make a trainer write neither logs nor checkpoints.

    Args:
        trainer: Configuration of the trainer; changed in place.
        given: Callbacks of the configuration.
        own_bar: Whether the command shows its own progress bar.

    Returns:
        The callbacks that remain.
    """
    if trainer.logger is not False:
        # Some callbacks, such as LearningRateMonitor, require a logger.
        trainer.logger = DummyLogger()
    if own_bar:
        trainer.enable_progress_bar = trainer.enable_model_summary = False
        trainer.enable_checkpointing = False
        return [c for c in given if not isinstance(c, Checkpoint | ProgressBar)]
    # `check` ends by an exception. Others remain, because a resumed run restores their states.
    return [c for c in given if not _saves_on_exception(c)]


def _saves_on_exception(callback: Any) -> bool:
    own = getattr(callback, "save_on_exception", False)  # of a ModelCheckpoint
    return isinstance(callback, OnExceptionCheckpoint) or bool(own)
