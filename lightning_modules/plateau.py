"""A learning rate that falls when what validation measures no longer improves."""

from __future__ import annotations

import math
from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.cli import ReduceLROnPlateau

VALIDATED = "val/"  # beginning of the names of what validation measures
NEVER = 2**62  # epochs between two looks of Lightning's own


def plateau_config(scheduler: Any) -> dict[str, Any]:
    """Lightning's configuration of a schedule that watches a value.

    Lightning lets it look once an epoch. What validation measures is looked at by
    ``look_at_plateaus`` instead, so that ``patience`` counts validations however long an epoch is.

    Raises:
        ValueError: The schedule does not say what it watches.
    """
    if not isinstance(scheduler, ReduceLROnPlateau):
        raise ValueError(
            "model.init_args.lr_scheduler is torch's ReduceLROnPlateau, which does not say "
            "what it watches: use lightning.pytorch.cli.ReduceLROnPlateau with monitor"
        )
    validated = scheduler.monitor.startswith(VALIDATED)
    return {
        **{"scheduler": scheduler, "monitor": scheduler.monitor, "interval": "epoch"},
        "frequency": NEVER if validated else 1,
    }


def check_plateaus(trainer: Trainer) -> None:
    """See that there is a validation where a schedule waits for one.

    Args:
        trainer: About to train.

    Raises:
        ValueError: There is none.
    """
    for monitor in _watched(trainer):
        if not sum(trainer.num_val_batches):
            raise ValueError(
                f"model.init_args.lr_scheduler waits for {monitor}, but there is no validation: "
                "give data.init_args.val, or another lr_scheduler"
            )


def look_at_plateaus(trainer: Trainer) -> None:
    """Step the schedules that watch a value which this validation measured.

    Args:
        trainer: At the end of a validation, before the next one forgets what it logged.

    Raises:
        ValueError: A schedule waits for a value that neither this nor an earlier one measured.
    """
    if trainer.sanity_checking or trainer.state.fn != "fit":
        return
    measured = trainer._logger_connector.metrics["callback"]  # in this validation, nothing older
    for monitor, scheduler in _watched(trainer).items():
        if monitor in measured:
            trainer.lightning_module.lr_scheduler_step(scheduler, _rankable(measured[monitor]))
        elif monitor not in trainer.callback_metrics:
            names = ", ".join(sorted(n for n in measured if n.startswith(VALIDATED)))
            raise ValueError(
                f"model.init_args.lr_scheduler waits for {monitor!r}, which this validation did "
                f"not log: set its monitor to one of {names}"
            )


def _rankable(value: Any) -> Any:
    # A value that is not finite is never the best: of an infinite one, no other would be, ever.
    return value if math.isfinite(value) else math.nan


def _watched(trainer: Trainer) -> dict[str, Any]:
    return {
        str(config.monitor): config.scheduler
        for config in trainer.lr_scheduler_configs
        if config.reduce_on_plateau and config.frequency == NEVER
    }
