"""Which degradation makes the LR of a batch, and the pool that mixes the pairs of batches."""

from __future__ import annotations

from typing import Any

import torch

from datamodules.pictures import Pictures
from degradations.base import Degradation
from degradations.pool import PairPool, Pairs


def degradation_of(dataset: Pictures, default: Degradation | None) -> Degradation:
    """What makes LR of a dataset's HR: its source's own degradation, or the run's.

    Raises:
        ValueError: There is none, or it makes LR for another scale.
    """
    degradation = dataset.source.degradation or default
    if degradation is None:
        raise ValueError(
            f"source {dataset.name!r} gives no LR pictures and nothing makes them: set "
            "degradation.class_path"
        )
    if degradation.scale != dataset.scale:
        raise ValueError(
            f"source {dataset.name!r} has scale {dataset.scale:g}, but its degradation makes LR "
            f"for scale {degradation.scale:g}: give the source a degradation of its scale"
        )
    return degradation


def new_pool(size: int, batch_size: int, world: int) -> PairPool | None:
    """The pair pool of this process.

    Args:
        size: Pairs in it; 0 for no pool.
        batch_size: Crops of a global batch.
        world: Number of processes.

    Raises:
        ValueError: ``size`` is no multiple of a process's share of a batch.
    """
    share = batch_size // world
    if size and (size < share or size % share):
        raise ValueError(
            f"degradation.init_args.pool is {size}; expected 0 (no pool) or a multiple of the "
            f"{share} crops that a process has in a batch (data.init_args.batch_size {batch_size}, "
            f"processes {world}), such as {max(1, size // share) * share}"
        )
    return PairPool(size) if size else None


def check_pooled(batch: dict[str, Any]) -> None:
    """Refuse pictures that a pool cannot keep.

    Args:
        batch: As it comes to the device.

    Raises:
        ValueError: There are pictures of 16 bits.
    """
    if batch["hr"].dtype != torch.uint8:
        raise ValueError(
            "degradation.init_args.pool keeps pictures of 8 bits, and there are some of 16 in "
            f"data.init_args.train ({', '.join(batch['key'][:3])}, ...): convert them, or set pool "
            "to 0"
        )


def exchange(pool: PairPool, batch: dict[str, Any]) -> None:
    """Put a batch's pairs into the pool, and others in their place.

    What belongs to a pair goes with it. ``seed`` stays: it is what the model draws from, and a pair
    that was trained on before would meet the same noise once more.
    """
    notes: dict[str, list[str]] = {n: batch[n] for n in ("key", "text") if n in batch}
    given = pool.exchange(Pairs(batch["hr"], batch["lr"], notes), batch["seed"].tolist())
    batch.update(given.notes, hr=given.hr, lr=given.lr)
