"""Monitored values: logged values that a schedule or early stopping reads later.

Checkpoints keep them, which Lightning does not. Early stopping would fail in a run that continues
between a validation and the end of its epoch.
"""

from __future__ import annotations

from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import EarlyStopping

from callbacks.evaluation import all_callbacks
from commands.lightning_internals import restore_logged_values


def monitored_values(trainer: Trainer) -> dict[str, float]:
    """Return the latest of each monitored value, by name; without those not logged yet."""
    names = {config.monitor for config in trainer.lr_scheduler_configs if config.reduce_on_plateau}
    names |= {c.monitor for c in all_callbacks(trainer) if isinstance(c, EarlyStopping)}
    logged = trainer.callback_metrics
    return {name: float(logged[name]) for name in sorted(map(str, names)) if name in logged}


def restore_monitored_values(trainer: Trainer, values: dict[str, float]) -> None:
    """Restore values of a checkpoint, as if this process had logged them.

    Args:
        trainer: The trainer, before training.
        values: Values of ``monitored_values``.
    """
    restore_logged_values(trainer, values)
