"""The DataLoaders of a run: in the plan's order for training, once through for an evaluation."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch.utils.data import DataLoader

from datamodules.batches import collate
from datamodules.order import EvaluationSampler
from datamodules.pictures import Pictures
from datamodules.worker_signals import end_workers_at_exit, leave_signals_to_the_owner
from degradations.draws import seed_of

Loader = DataLoader[dict[str, Any]]


def loader_of(
    dataset: Pictures, sampler: Any, workers: int, pin_memory: bool, persistent: bool = False
) -> Loader:
    """A loader whose batches are as ``collate`` makes them.

    Args:
        dataset: The pictures.
        sampler: Gives the items of whole batches.
        workers: Processes that read; 0 to read in this one.
        pin_memory: Whether batches go to a GPU.
        persistent: Whether the workers live on from epoch to epoch.
    """
    if workers:
        end_workers_at_exit()
    return DataLoader(
        dataset,
        batch_sampler=sampler,
        num_workers=workers,
        collate_fn=collate,
        pin_memory=pin_memory,
        persistent_workers=persistent and workers > 0,
        worker_init_fn=start_worker,
        generator=torch.Generator(),  # or each pass draws a seed from the global one
    )


def evaluation_sampler(
    dataset: Pictures, left_out: set[str], seed: int, batch_size: int, ranks: tuple[int, int]
) -> EvaluationSampler:
    """The order in which the pictures of a source are evaluated, and their seeds.

    Args:
        dataset: The pictures.
        left_out: Keys of the source that are not wanted.
        seed: ``data.init_args.degradation_seed``.
        batch_size: Pictures a batch on each process.
        ranks: Number of this process, and of all.
    """
    keys: Sequence[str] = dataset.source.keys if left_out else ()
    done = {index for index, key in enumerate(keys) if key in left_out}
    indices = [i for i in range(len(dataset)) if i not in done] if done else range(len(dataset))
    named = dataset.source.keys if dataset.source.shares_seeds else dataset.keys
    return EvaluationSampler(indices, partial(_seed, seed, named), batch_size, *ranks)


def position_of(trainer: Any) -> tuple[int, int]:
    """Where a run stands: its epoch, and how many global batches of it are done.

    With ``trainer.overfit_batches`` it is the first epoch again and again, of the same batches.
    """
    # Lightning restores these counters before it asks the loader for the first batch; the
    # checkpoint callback makes sure that a checkpoint holds them as of the last whole step.
    if trainer is None:
        return 0, 0
    epoch, loop = trainer.current_epoch, trainer.fit_loop
    # Between two epochs, the number of batches is still that of the one before.
    begun = loop.epoch_progress.current.ready > epoch
    done = loop.epoch_loop.batch_progress.current.completed if begun else 0
    # Lightning takes only so many batches of an epoch; here each epoch has others.
    return 0 if trainer.overfit_batches else epoch, done


def _seed(seed: int, keys: Sequence[str], index: int) -> int:
    return seed_of(seed, keys[index])


def start_worker(worker: int) -> None:
    """What each worker of a DataLoader does first.

    Args:
        worker: Its number.
    """
    leave_signals_to_the_owner()
    # One thread a worker: OpenCV would otherwise start as many as there are cores in each of them.
    if "cv2" in sys.modules:
        sys.modules["cv2"].setNumThreads(0)
