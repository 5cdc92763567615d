"""The LR of a batch on its device: which degradation makes it, and the pair pool."""

from __future__ import annotations

import logging
from typing import Any

import torch

from datamodules.batches import collate
from datamodules.samples import Images
from degradations.base import Degradation
from degradations.pool import PairPool, Pairs

log = logging.getLogger(__name__)
LONG = 2000  # steps from which compiling pays


def degradation_of(
    dataset: Images, default: Degradation | None, scale: float | None = None
) -> Degradation:
    """Return the degradation of a dataset's HR: its source's own, or the run's.

    Args:
        dataset: The images.
        default: The run's degradation, adapted to the dataset's scale if possible.
        scale: The scale of this batch, if it differs from the dataset's.

    Raises:
        ValueError: If there is none, or it makes LR for another scale.
    """
    own = dataset.source.degradation
    degradation = own or default
    if degradation is None:
        raise ValueError(
            f"source {dataset.name!r} has no LR images and no degradation makes them: set "
            "degradation.class_path"
        )
    if degradation.scale != dataset.scale and (own is not None or not degradation.any_scale):
        raise ValueError(
            f"source {dataset.name!r} has scale {dataset.scale:g}, but its degradation makes LR "
            f"for scale {degradation.scale:g}: give the source a degradation of its scale"
        )
    return degradation.at(dataset.scale if scale is None else scale)


def check_any_scale(degradation: Degradation) -> None:
    """Refuse a degradation that cannot make LR at several scales.

    Raises:
        ValueError: If it makes LR for one scale, or keeps pairs of one size.
    """
    if not degradation.any_scale or degradation.pool:
        raise ValueError(
            "data.init_args.crops.scales draws a scale for each batch, but "
            f"{type(degradation).__name__} makes LR for its own scale only, or its pair pool keeps "
            "pairs of one size: set degradation.class_path to degradations.Bicubic and its pool to "
            "0, or unset scales"
        )


def new_pool(degradation: Degradation | None, batch_size: int, world: int) -> PairPool | None:
    """Return the pair pool of this process, or None.

    Args:
        degradation: The degradation of training, which sets the number of pairs.
        batch_size: Crops in a global batch.
        world: Number of processes.

    Raises:
        ValueError: If the pool is not a multiple of a process's share of a batch.
    """
    size = 0 if degradation is None else degradation.pool
    share = batch_size // world
    if size and (size < share or size % share):
        raise ValueError(
            f"degradation.init_args.pool is {size}; expected 0 (no pool) or a multiple of the "
            f"{share} crops that a process has in a batch (data.init_args.batch_size {batch_size}, "
            f"processes {world}), such as {max(1, size // share) * share}"
        )
    return PairPool(size) if size else None


def check_pooled(batch: dict[str, Any]) -> None:
    """Refuse images that a pool cannot keep.

    Args:
        batch: The batch as it arrives on the device.

    Raises:
        ValueError: If it has 16-bit images; or latents, or features of captions, which the pool
            would not exchange.
    """
    other: list[str] = [name for name in ("latent", "text_features") if name in batch]
    other += ["16-bit images"] if batch["hr"].dtype != torch.uint8 else []
    if other:
        raise ValueError(
            "degradation.init_args.pool exchanges 8-bit images, but data.init_args.train gives "
            f"{', '.join(other)} ({batch['key'][0]}, ...): set pool to 0"
        )


def compile_if_it_pays(degradation: Degradation, trainer: Any, batches: int) -> None:
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


def collated(degradation: Degradation | None, samples: list[dict[str, Any]]) -> dict[str, Any]:
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


def make_lr(
    batch: dict[str, Any], degradation: Degradation, pool: PairPool | None, finite: bool = True
) -> None:
    """Degrade the HR of a batch in place; with a pool, exchange its pairs for earlier ones.

    Keys and captions move with their pair. ``seed`` stays: the model draws from it, and a pair
    that comes again would get the same noise.

    Args:
        batch: Has ``hr`` in float32, and ``draws`` of `collated`, or none; gets ``lr``.
        degradation: Makes the LR.
        pool: The pool of training, or None.
        finite: Whether to refuse NaN and infinity in a degradation's first batch.
    """
    if not finite:
        degradation.skip_first_batch_checks()
    hr, (shape, params) = batch["hr"], batch.pop("draws", ((), None))
    if tuple(shape) == hr.shape:  # else resized since then, to a scale drawn for the batch
        batch["lr"] = degradation.replay(hr, params)
    else:
        batch["lr"] = degradation(hr, batch["seed"])
    if pool is None:
        return
    notes: dict[str, list[str]] = {n: batch[n] for n in ("key", "text") if n in batch}
    pairs = pool.exchange(Pairs(batch["hr"], batch["lr"], notes), batch["seed"].tolist())
    batch.update(pairs.notes, hr=pairs.hr, lr=pairs.lr)
