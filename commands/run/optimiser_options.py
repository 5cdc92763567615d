"""Options of the optimiser, which a run in Python has no configuration to compare by."""

from __future__ import annotations

import logging

from lightning.pytorch import Trainer

log = logging.getLogger(__name__)


def optimiser_options(trainer: Trainer) -> list[dict[str, str]]:
    """Return the options of each group of parameters that stay the same in training."""
    has_schedule = bool(trainer.lr_scheduler_configs)  # which may change all but this one
    options = []
    for optimizer in trainer.optimizers:
        for group in optimizer.param_groups:
            names = ["initial_lr"] if has_schedule else [name for name in group if name != "params"]
            options.append({name: repr(group[name]) for name in names if name in group})
    return options


def warn_of_other_options(configured: list[dict[str, str]], restored: list[dict[str, str]]) -> None:
    """Warn if the optimiser has other options than it was made with: those of a checkpoint.

    Args:
        configured: The options before it was restored.
        restored: Those afterwards.
    """
    others: list[str] = []
    # Not strict: by then, `BaseFinetuning` has added the groups of what it had unfrozen.
    for before, after in zip(configured, restored, strict=False):
        for name, value in before.items():
            text = f"{name} {after.get(name, value)}, not {value}"
            if after.get(name, value) != value and text not in others:
                others.append(text)
    if others:
        log.warning(
            "the optimiser goes on with the checkpoint's %s: to train with other values, begin "
            "another run with the weights of this one",
            "; ".join(others),
        )
