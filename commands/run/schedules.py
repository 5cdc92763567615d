"""Learning-rate schedules that would fail later in a run, found before its first step."""

from __future__ import annotations

import sys
from typing import Any

from lightning.pytorch import Trainer
from torch.optim.lr_scheduler import OneCycleLR

from commands.errors import ConfigurationError

SCHEDULE = "model.init_args.lr_scheduler"


def check_lengths(trainer: Trainer) -> None:
    """Check schedules that fail later in the run.

    Args:
        trainer: The trainer, with its loaders, and schedules as restored.

    Raises:
        ConfigurationError: If a schedule ends before the training, or steps by a value that no
            validation has measured by then.
    """
    end = trainer.max_steps
    if trainer.lightning_module.automatic_optimization:
        end = int(min(trainer.estimated_stepping_batches, sys.maxsize))
    for config in trainer.lr_scheduler_configs:
        schedule: Any = config.scheduler
        one_cycle = isinstance(schedule, OneCycleLR) and config.interval == "step"
        if one_cycle and schedule.total_steps < end:
            raise ConfigurationError(
                f"{SCHEDULE}, a OneCycleLR, ends at step {schedule.total_steps} (total_steps), and "
                f"the training at step {end}: set one to the other; a resumed run keeps its "
                "schedule, so begin another run with its weights"
            )
        by_epoch = config.reduce_on_plateau and config.interval == "epoch" and config.strict
        if by_epoch and not _is_validated(trainer, epochs=config.frequency):
            raise ConfigurationError(
                f"{SCHEDULE} steps at the end of an epoch by {config.monitor}, and the first one, "
                f"of {trainer.num_training_batches} batches, ends without a validation: set "
                "trainer.val_check_interval to at most that number, and "
                "trainer.check_val_every_n_epoch to 1 or null"
            )


def _is_validated(trainer: Trainer, epochs: int) -> bool:
    """Return whether the first epochs have a validation."""
    batches = trainer.num_training_batches
    if not trainer.enable_validation:
        return False
    every: Any = trainer.check_val_every_n_epoch
    if every is not None:
        return bool(every <= epochs)
    due: Any = trainer.val_check_batch
    return bool(due <= epochs * batches)
