"""What objects say of a run that was started in Python, without a configuration to compare."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Sequence
from typing import Any

from lightning.pytorch import Trainer

from callbacks.evaluation import all_callbacks, evaluated_datasets
from callbacks.metrics.base import Metric
from datamodules.order.keys import digest_of
from datamodules.source import Source, sized_keys

log = logging.getLogger(__name__)


def measured_objects(trainer: Trainer) -> list[str]:
    """Return what scores of a validation depend on: its images, by names and sizes, and metrics."""
    datasets: list[Any] = []
    with contextlib.suppress(AttributeError, TypeError, ValueError):  # loaders of another kind
        datasets = evaluated_datasets(trainer)
    said = [repr([each.name, each.scale, digest_of(_images(each))]) for each in datasets]
    return said + [type(c).__name__ for c in all_callbacks(trainer) if isinstance(c, Metric)]


def _images(dataset: Any) -> Sequence[str]:
    source = getattr(dataset, "source", None)
    return sized_keys(source) if isinstance(source, Source) else dataset.keys


def optimiser_options(trainer: Trainer) -> list[dict[str, str]]:
    """Return the options of each group of parameters that stay the same in training."""
    scheduled = bool(trainer.lr_scheduler_configs)  # which may change all others
    return [
        {
            name: repr(value)
            for name, value in group.items()
            if name == "initial_lr" or not (scheduled or name == "params")
        }
        for optimizer in trainer.optimizers
        for group in optimizer.param_groups
    ]


def warn_of_other_options(asked: list[dict[str, str]], kept: list[dict[str, str]]) -> None:
    """Warn if the optimiser has other options than it was made with: those of a checkpoint.

    Args:
        asked: The options before it was restored.
        kept: Those afterwards.
    """
    others = {
        f"{name} {after[name]}, not {before[name]}": None
        for before, after in zip(asked, kept, strict=True)
        for name in before
        if name in after and before[name] != after[name]
    }
    if others:
        log.warning(
            "the optimiser goes on with the checkpoint's %s: to train with other values, begin "
            "another run with the weights of this one",
            "; ".join(others),
        )
