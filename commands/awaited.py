"""Logged values that a schedule or early stopping looks at later: kept with a checkpoint.

Lightning does not keep them. A run that goes on between a validation and the end of its epoch, when
early stopping may look at what that validation measured, would find nothing there, and stop.
"""

from __future__ import annotations

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import EarlyStopping

from callbacks.evaluation import all_callbacks


def awaited_values(trainer: Trainer) -> dict[str, float]:
    """The latest of each value that is waited for, by its name; none that was not logged yet."""
    names = {config.monitor for config in trainer.lr_scheduler_configs if config.reduce_on_plateau}
    names |= {c.monitor for c in all_callbacks(trainer) if isinstance(c, EarlyStopping)}
    logged = trainer.callback_metrics
    return {name: float(logged[name]) for name in sorted(map(str, names)) if name in logged}


def put_back(trainer: Trainer, values: dict[str, float]) -> None:
    """Let those who wait for values find them, as if they had been logged by this process.

    Args:
        trainer: About to train.
        values: As ``awaited_values`` gave them.
    """
    device = trainer.strategy.root_device
    found = {name: torch.tensor(value, device=device) for name, value in values.items()}
    trainer._logger_connector._callback_metrics.update(found)
