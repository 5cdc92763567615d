"""DataLoaders and their workers."""

from __future__ import annotations

import atexit
import functools
import gc
import multiprocessing
import multiprocessing.util
import os
import signal
import sys
from collections.abc import Callable, Sequence
from functools import partial
from types import FrameType
from typing import Any

import torch
from torch.utils.data import DataLoader

from datamodules.batches import collate
from datamodules.order.plan import EvaluationSampler
from datamodules.samples import Images
from datamodules.torch_internals import end_workers_of
from degradations.draws import seed_of
from files.waits import WAITS


def leave_signals_to_the_owner() -> None:
    """Let a DataLoader's worker survive signals that launchers and terminals send to the group.

    torchrun, SLURM and Ctrl-C signal every process of a group. A worker that dies of it stops the
    training in the middle of a step, instead of after it. The owner ends its workers itself; if it
    is killed, they notice within seconds.
    """
    for number in (signal.SIGINT, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)
    # The second signal counts: with it the owner ends a worker that hangs.
    signal.signal(signal.SIGTERM, _ignore_first_sigterm)
    # An orphan would wait forever until its images are read, as it holds both ends of the pipe.
    # Before multiprocessing's own finalizers, which have a priority below zero.
    multiprocessing.util.Finalize(None, _end_orphan, (os.getppid(),), exitpriority=0)


@functools.cache  # once per process
def expect_workers() -> None:
    """Prepare a process to own workers.

    They end with their owner, even after an error: Python sends them one SIGTERM, which they
    survive, and then waits for them; this runs earlier. They do not free what they inherit either:
    FFmpeg frees a decoder once its threads have ended, and those threads do not exist in a fork.
    """
    atexit.register(_end_at_exit)
    os.register_at_fork(after_in_child=gc.freeze)


def _end_at_exit() -> None:
    """Kill the workers when this process exits."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # torch's handler raises if one was killed
    end_workers()


def end_workers() -> None:
    """Kill the workers of this process, which ends."""
    for child in multiprocessing.active_children():
        if child.daemon:
            child.kill()


def _end_orphan(owner: int) -> None:
    """End this worker at once, at its exit, if its owner is dead."""
    if os.getppid() != owner:
        os._exit(1)


def _ignore_first_sigterm(number: int, frame: FrameType | None) -> None:
    """Handle SIGTERM: do nothing, but let the next one end the process."""
    signal.signal(number, signal.SIG_DFL)


class Loader(DataLoader[dict[str, Any]]):
    """A DataLoader whose workers end with an error, although they survive torch's signal."""

    def __iter__(self) -> Any:
        """Iterate over the batches."""
        batches = super().__iter__()
        try:
            yield from batches
        except Exception:
            end_workers_of(batches)
            raise


def loader_of(
    dataset: Images,
    sampler: Any,
    workers: int,
    pin_memory: bool,
    persistent: bool = False,
    collate: Callable[[Any], dict[str, Any]] = collate,
) -> Loader:
    """Return a loader of collated batches, which waits for its workers as long as ``WAITS`` says.

    Args:
        dataset: The images.
        sampler: Gives the items of whole batches.
        workers: Number of reader processes; 0 reads in this process.
        pin_memory: Whether batches go to a GPU.
        persistent: Whether to keep the workers from epoch to epoch.
        collate: Makes a batch of samples, in the worker.
    """
    if workers:
        expect_workers()
    return Loader(
        dataset,
        batch_sampler=sampler,
        num_workers=workers,
        timeout=WAITS.limit if workers else 0,
        collate_fn=collate,
        pin_memory=pin_memory,
        persistent_workers=persistent and workers > 0,
        worker_init_fn=start_worker,
        generator=torch.Generator(),  # else each pass draws a seed from the global generator
    )


def evaluation_sampler(
    dataset: Images, left_out: set[str], seed: int, batch_size: int, ranks: tuple[int, int]
) -> EvaluationSampler:
    """Return the order in which a source's images are evaluated, and their seeds.

    Args:
        dataset: The images.
        left_out: Keys of the source to skip.
        seed: ``data.init_args.degradation_seed``.
        batch_size: Images per batch on each process.
        ranks: Rank of this process, and number of processes.
    """
    keys: Sequence[str] = dataset.source.keys if left_out else ()
    done = {index for index, key in enumerate(keys) if key in left_out}
    indices = [i for i in range(len(dataset)) if i not in done] if done else range(len(dataset))
    named = dataset.source.keys if dataset.source.shares_seeds else dataset.keys
    return EvaluationSampler(indices, partial(_seed_of_image, seed, named), batch_size, *ranks)


def position_of(trainer: Any) -> tuple[int, int]:
    """Return a run's position: its epoch, and the number of global batches done in it.

    With ``trainer.overfit_batches`` the first epoch repeats, with the same batches.
    """
    # Lightning restores these counters before it asks the loader for the first batch; the
    # checkpoint callback stores them as of the last complete step.
    if trainer is None:
        return 0, 0
    epoch, loop = trainer.current_epoch, trainer.fit_loop
    # Between two epochs, the number of batches is still the previous epoch's.
    begun = loop.epoch_progress.current.ready > epoch
    done = loop.epoch_loop.batch_progress.current.processed if begun else 0
    # Lightning takes the first batches of an epoch, and here each epoch has other batches.
    return 0 if trainer.overfit_batches else epoch, done


def on_cuda(trainer: Any) -> bool:
    """Return whether batches go to a GPU: Lightning copies asynchronously from pinned memory."""
    device = getattr(getattr(trainer, "strategy", None), "root_device", None)
    return device is not None and device.type == "cuda"


def _seed_of_image(seed: int, keys: Sequence[str], index: int) -> int:
    """Return the seed of an image in evaluation: a hash of the run's seed and its key."""
    return seed_of(seed, keys[index])


def start_worker(worker: int) -> None:
    """Initialise a worker of a DataLoader.

    Args:
        worker: Its number.
    """
    leave_signals_to_the_owner()
    # One thread per worker: else OpenCV starts one per core in each worker.
    if "cv2" in sys.modules:
        sys.modules["cv2"].setNumThreads(0)
