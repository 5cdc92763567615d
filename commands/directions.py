"""Whoever watches a value has to look for the same direction as the metric that measures it."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Any

from lightning.pytorch import Callback, Trainer

from callbacks.base import all_callbacks
from callbacks.direction import WORDS, Direction, direction_of
from commands.errors import ConfigurationError

log = logging.getLogger(__name__)

SCHEDULE = "model.init_args.lr_scheduler"


def settled(
    key: str, monitor: str, mode: str | None, callbacks: Iterable[Callback]
) -> Direction | None:
    """Return the direction of a value that is watched; None where it is not known.

    Args:
        key: Who watches it, in the configuration.
        monitor: The value's name.
        mode: ``max`` or ``min``, as set; None if it is not.
        callbacks: The trainer's.

    Raises:
        ConfigurationError: ``mode`` is against it.
    """
    known = direction_of(monitor, callbacks)
    if known is None or mode in (None, known):
        return known
    fix = f"set its mode to {known}" if key != "checkpoint" else "leave checkpoint.mode out"
    raise ConfigurationError(
        f"{key} watches {monitor} with mode {mode}, but {WORDS[known]} values of {monitor} are "
        f"better: {fix}"
    )


def check_directions(trainer: Trainer) -> None:
    """Check the callbacks and schedules that watch a value: early stopping, plateaus, and others.

    Args:
        trainer: About to fit, with its schedules.

    Raises:
        ConfigurationError: The mode of one is against the value's direction.
    """
    callbacks = all_callbacks(trainer)
    for callback in callbacks:
        monitor, mode = getattr(callback, "monitor", None), getattr(callback, "mode", None)
        if isinstance(monitor, str) and mode in WORDS:
            settled(f"{type(callback).__name__} in trainer.callbacks", monitor, mode, callbacks)
    for config in trainer.lr_scheduler_configs:
        if config.reduce_on_plateau:
            schedule: Any = config.scheduler
            settled(SCHEDULE, str(config.monitor), schedule.mode, callbacks)


def mend_restored(trainer: Trainer) -> None:
    """Set right the schedules of a checkpoint that was trained with a mode against the direction.

    Torch takes the mode from the checkpoint, whatever the configuration says.

    Args:
        trainer: About to train, with all that a checkpoint holds restored.
    """
    for config in trainer.lr_scheduler_configs:
        schedule: Any = config.scheduler
        right = direction_of(str(config.monitor), all_callbacks(trainer))
        if config.reduce_on_plateau and right is not None and schedule.mode != right:
            log.warning(
                "the checkpoint's %s looked for %s values of %s: from here on it looks for %s ones",
                *(SCHEDULE, WORDS[schedule.mode], config.monitor, WORDS[right]),
            )
            worst = float("inf") if right == "min" else -float("inf")
            schedule.mode, schedule.mode_worse, schedule.best = right, worst, worst
            schedule.num_bad_epochs = 0
