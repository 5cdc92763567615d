"""The LR of a batch on its device: which degradation makes it."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

from datamodules.batches import collate
from datamodules.samples import Images
from datamodules.source import Mixing
from degradations.base import Degradation
from degradations.draws import Draws

log = logging.getLogger(__name__)
LONG = 2000  # steps from which compiling pays


def degradation_of(
    dataset: Images, default: Degradation | None, scale: float | None = None
) -> Degradation:
    """Return the degradation of a dataset's HR: its source's own, or the run's.

    Args:
        dataset: The images.
        default: The run's degradation.
        scale: The scale of this batch, if it differs from the dataset's.

    Raises:
        ValueError: If there is none, or it makes LR for another scale alone.
    """
    degradation = dataset.source.degradation or default
    if degradation is None:
        raise ValueError(
            f"source {dataset.name!r} has no LR images and no degradation makes them: set "
            "degradation.class_path"
        )
    return degradation.at(dataset.scale if scale is None else scale)


def leave_short_runs_uncompiled(degradation: Degradation, trainer: Any, batches: int) -> None:
    """Leave a degradation uncompiled in a run that ends before compiling pays.

    Args:
        degradation: The degradation of training; its own ``compile`` goes first.
        trainer: Says how long the run is.
        batches: Of an epoch.
    """
    limits = [] if trainer.max_steps == -1 else [trainer.max_steps]
    if trainer.max_epochs not in (None, -1):
        limits.append(batches * trainer.max_epochs)
    steps = min(limits, default=LONG)
    if steps < LONG and degradation.compile_canvas is None:
        degradation.compile_canvas = False
        log.info("the degradation is not compiled, for %d steps; its compile: true does", steps)


def collate_and_draw(
    degradation: Degradation | None, samples: list[dict[str, Any]]
) -> dict[str, Any]:
    """Collate training samples, and draw the parameters of `make_lr` here, in the worker.

    Args:
        degradation: The degradation of training, if there is one.
        samples: The samples.
    """
    batch = collate(samples)
    if degradation is not None and "hr" in batch and "lr" not in batch:
        shape = batch["hr"].shape
        batch["draws"] = (shape, degradation.draw_ahead(batch["seed"], shape))
    return batch


def mix_pairs(batch: dict[str, Any], mixing: Sequence[Mixing]) -> None:
    """Change HR and LR of a batch together, in place.

    Args:
        batch: Of training, with ``hr`` and ``lr`` in float32.
        mixing: The changes.
    """
    draws = Draws(batch["seed"])
    for change in mixing:
        batch["hr"], batch["lr"] = change(batch["hr"], batch["lr"], draws)


def make_lr(batch: dict[str, Any], degradation: Degradation, finite: bool = True) -> None:
    """Degrade the HR of a batch in place.

    Args:
        batch: Has ``hr`` in float32, and ``draws`` of `collate_and_draw`, or none; gets ``lr``.
        degradation: Makes the LR.
        finite: Whether to refuse NaN and infinity in a degradation's first batch.
    """
    if not finite:
        degradation.skip_first_batch_checks()
    hr, (shape, params) = batch["hr"], batch.pop("draws", ((), None))
    if tuple(shape) == hr.shape:  # else resized since then, to a scale drawn for the batch
        batch["lr"] = degradation.replay(hr, params)
    else:
        batch["lr"] = degradation(hr, batch["seed"])
