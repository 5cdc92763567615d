"""Which degradation makes the LR of a batch, and the pool that mixes the pairs of batches."""

from __future__ import annotations

from typing import Any

import torch

from datamodules.pictures import Pictures
from degradations.base import Degradation
from degradations.pool import PairPool, Pairs


def degradation_of(
    dataset: Pictures, default: Degradation | None, scale: float | None = None
) -> Degradation:
    """What makes LR of a dataset's HR: its source's own degradation, or the run's.

    Args:
        dataset: The pictures.
        default: The run's degradation, which is taken to the dataset's scale where it can be.
        scale: The scale of this batch, where that is not the dataset's.

    Raises:
        ValueError: There is none, or it makes LR for another scale.
    """
    own = dataset.source.degradation
    degradation = own or default
    if degradation is None:
        raise ValueError(
            f"source {dataset.name!r} gives no LR pictures and nothing makes them: set "
            "degradation.class_path"
        )
    if degradation.scale != dataset.scale and (own is not None or not degradation.any_scale):
        raise ValueError(
            f"source {dataset.name!r} has scale {dataset.scale:g}, but its degradation makes LR "
            f"for scale {degradation.scale:g}: give the source a degradation of its scale"
        )
    return degradation.at(dataset.scale if scale is None else scale)


def check_any_scale(degradation: Degradation | None) -> None:
    """Refuse what cannot make the LR of batches of differing scales.

    Args:
        degradation: That of training.

    Raises:
        ValueError: It makes LR for one scale, or keeps pairs of one size.
    """
    if degradation is None:
        return
    name = type(degradation).__name__
    if not degradation.any_scale:
        raise ValueError(
            f"data.init_args.crops.scales draws a scale for each batch, and {name} makes LR for its own "
            "scale only: set degradation.class_path to degradations.bicubic.Bicubic, or unset "
            "scales"
        )
    if degradation.pool:
        raise ValueError(
            f"data.init_args.crops.scales gives each batch other sizes, and the pair pool of {name} "
            f"keeps pairs of one size: set its pool to 0 (it is {degradation.pool}), or unset "
            "scales"
        )


def new_pool(degradation: Degradation | None, batch_size: int, world: int) -> PairPool | None:
    """The pair pool of this process, if there is one.

    Args:
        degradation: That of training, which says how many pairs are in it.
        batch_size: Crops of a global batch.
        world: Number of processes.

    Raises:
        ValueError: They are no multiple of a process's share of a batch.
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
    """Refuse pictures that a pool cannot keep.

    Args:
        batch: As it comes to the device.

    Raises:
        ValueError: There are pictures of 16 bits, or latents, which would stay behind.
    """
    if "latent" in batch:
        raise ValueError(
            "degradation.init_args.pool exchanges pictures, and data.init_args.train gives latents "
            "beside them: set pool to 0"
        )
    if batch["hr"].dtype != torch.uint8:
        raise ValueError(
            "degradation.init_args.pool keeps pictures of 8 bits, and there are some of 16 in "
            f"data.init_args.train ({', '.join(batch['key'][:3])}, ...): convert them, or set pool "
            "to 0"
        )


def make_lr(
    batch: dict[str, Any], degradation: Degradation, pool: PairPool | None, finite: bool = True
) -> None:
    """Degrade the HR of a batch; with a pool, put others in the pairs' places.

    What belongs to a pair goes with it. ``seed`` stays: it is what the model draws from, and a pair
    that was trained on before would meet the same noise once more.

    Args:
        batch: With ``hr`` in float32; ``lr`` is put into it.
        degradation: Makes the LR.
        pool: That of training, if there is one.
        finite: Whether NaN and infinity are refused in a degradation's first batch.
    """
    if not finite:
        degradation.take_for_checked()
    batch["lr"] = degradation(batch["hr"], batch["seed"])
    if pool is None:
        return
    notes: dict[str, list[str]] = {n: batch[n] for n in ("key", "text") if n in batch}
    given = pool.exchange(Pairs(batch["hr"], batch["lr"], notes), batch["seed"].tolist())
    batch.update(given.notes, hr=given.hr, lr=given.lr)
