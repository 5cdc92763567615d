"""Learning rates that fall when a validation metric stops improving."""

from __future__ import annotations

import math
from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.cli import ReduceLROnPlateau

VALIDATED = "val/"  # prefix of validation metrics
NEVER = 2**62  # epochs between two steps by Lightning itself


def plateau_config(scheduler: Any) -> dict[str, Any]:
    """Return Lightning's configuration of a schedule that monitors a value.

    Lightning steps it once an epoch. For validation metrics ``step_plateaus`` does it instead, so
    that ``patience`` counts validations, however long an epoch is.

    Raises:
        ValueError: If the schedule has no ``monitor``.
    """
    if not isinstance(scheduler, ReduceLROnPlateau):
        raise ValueError(
            "model.init_args.lr_scheduler is torch's ReduceLROnPlateau, which has no monitor: use "
            "lightning.pytorch.cli.ReduceLROnPlateau with monitor"
        )
    validated = scheduler.monitor.startswith(VALIDATED)
    return {
        **{"scheduler": scheduler, "monitor": scheduler.monitor, "interval": "epoch"},
        "frequency": NEVER if validated else 1,
    }


def check_plateaus(trainer: Trainer) -> None:
    """Raise if a schedule monitors validation and there is none.

    Args:
        trainer: Trainer that is about to train.

    Raises:
        ValueError: If there is no validation.
    """
    for monitor in _watched(trainer):
        if not sum(trainer.num_val_batches):
            raise ValueError(
                f"model.init_args.lr_scheduler monitors {monitor}, but there is no validation: "
                "set data.init_args.val, or another lr_scheduler"
            )


def step_plateaus(trainer: Trainer) -> None:
    """Step the schedules that monitor a value of this validation.

    Args:
        trainer: Trainer at the end of a validation, with its logged values.

    Raises:
        ValueError: If no validation so far has logged a monitored value.
    """
    if trainer.sanity_checking or trainer.state.fn != "fit":
        return
    measured = trainer._logger_connector.metrics["callback"]  # only of this validation
    for monitor, scheduler in _watched(trainer).items():
        if monitor in measured:
            trainer.lightning_module.lr_scheduler_step(scheduler, _rankable(measured[monitor]))
        elif monitor not in trainer.callback_metrics:
            names = ", ".join(sorted(n for n in measured if n.startswith(VALIDATED)))
            raise ValueError(
                f"model.init_args.lr_scheduler monitors {monitor!r}, which this validation did "
                f"not log: set its monitor to one of {names}"
            )


def _rankable(value: Any) -> Any:
    # A value that is not finite must never count as the best: nothing could exceed infinity.
    return value if math.isfinite(value) else math.nan


def _watched(trainer: Trainer) -> dict[str, Any]:
    return {
        str(config.monitor): config.scheduler
        for config in trainer.lr_scheduler_configs
        if config.reduce_on_plateau and config.frequency == NEVER
    }
