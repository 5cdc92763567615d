"""What objects say of a run that was started in Python, without a configuration to compare."""

from __future__ import annotations

import contextlib
import logging
from typing import Any

from lightning.pytorch import LightningModule, Trainer

from callbacks.evaluation import all_callbacks, evaluated_datasets
from callbacks.metrics.base import Metric
from datamodules.order.keys import digest_of
from datamodules.source import Source
from files.class_path import class_path
from files.paths import size_and_time

log = logging.getLogger(__name__)
PLAIN = (str, int, float, list, tuple, type(None))


def measured_objects(trainer: Trainer, pl_module: LightningModule) -> list[str]:
    """Return what scores of a validation depend on: images, degradations, tiles and metrics."""
    data: Any = getattr(trainer, "datamodule", None)
    asked = [getattr(data, "degradation_seed", None), vars(trainer)["limit_val_batches"]]
    said = [repr([*asked, getattr(pl_module, "tiling", None)])]
    datasets: list[Any] = []
    with contextlib.suppress(AttributeError, TypeError, ValueError):  # loaders of another kind
        datasets = evaluated_datasets(trainer)
    for dataset in datasets:
        source: Any = getattr(dataset, "source", None)
        said.append(repr([dataset.name, dataset.scale, digest_of(dataset.keys)]))
        if isinstance(source, Source):
            files = [source.path(index) for index in range(len(dataset.keys))]
            said += [f"{file} {size_and_time(file)}" for file in files if file is not None]
        recipe = getattr(source, "degradation", None) or getattr(data, "degradation", None)
        said += [_settings(part) for part in recipe.modules()] if recipe is not None else []
    return said + [_settings(c) for c in all_callbacks(trainer) if isinstance(c, Metric)]


def _settings(part: object) -> str:
    public = {k: v for k, v in vars(part).items() if isinstance(v, PLAIN) and not k.startswith("_")}
    for passing in ("scale", "records", "control_records"):  # of a metric
        if isinstance(part, Metric):
            public.pop(passing, None)
    return f"{class_path(type(part))} {public}"


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
