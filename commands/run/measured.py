"""What a number of a validation was measured on: only equal measurements are compared."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from typing import Any

from lightning.pytorch import Trainer

from callbacks.evaluation import all_callbacks, evaluated_datasets
from callbacks.metrics.base import Metric
from commands.arguments.saved_config import as_yaml, flat
from commands.run.directory import PLACE
from datamodules.order.keys import digest_of
from datamodules.source import Source, keys_with_file_sizes

# Settings that change outputs, LR images, or how many are measured.
SETTINGS = (
    "trainer.limit_val_batches",
    "data.init_args.val",
    "data.init_args.degradation_seed",
    "degradation",
    "tiling.size",
    "tiling.overlap",
    "tiling.window",
)


def measured_on(trainer: Trainer, monitor: str, config: Mapping[str, Any] | None) -> str:
    """Return a digest of what a number of the latest validation was measured on.

    It is of the images, by names and sizes; of how many were measured, and by which protocol, if
    the number is a metric's; and of the settings.

    Args:
        trainer: The trainer, after the validation.
        monitor: The number's name in the logs.
        config: The configuration of ``fit``; None in Python.
    """
    images: list[Any] = []
    # Loaders and datasets may be of another kind.
    with contextlib.suppress(AttributeError, TypeError, ValueError):
        for each in evaluated_datasets(trainer):
            images.append([each.name, float(each.scale), digest_of(_images(each))])
    records = []
    metrics = [callback for callback in all_callbacks(trainer) if isinstance(callback, Metric)]
    for metric in metrics:
        for record in metric.records:
            if metric.tag("val", record) == monitor:
                records.append([record["n"], dict(record["protocol"])])
    settings = {}
    for key, value in flat(config or {}).items():
        if key.startswith(SETTINGS) and PLACE.search(key) is None:
            settings[key] = value
    return digest_of([as_yaml([monitor, images, records, settings])])


def _images(dataset: Any) -> Sequence[str]:
    """Return what tells the images of a dataset apart: names, and sizes of files if known."""
    source = getattr(dataset, "source", None)
    return keys_with_file_sizes(source) if isinstance(source, Source) else dataset.keys
