"""Worker processes that read items in order."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from threading import Event, Thread
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset

from datamodules.loading import expect_workers, start_worker
from datamodules.torch_internals import arrived_of, end_workers_of, kill_workers_of


def read_in_order(
    dataset: Dataset[Any],
    numbers: Sequence[int],
    workers: int,
    wait_minutes: float,
    named: Callable[[int], object],
    chunk: int = 1,
) -> Generator[Any, None, None]:
    """Yield some items of a dataset, read by worker processes that end with this one.

    Args:
        dataset: Its items depend on their number alone.
        numbers: The items to read.
        workers: Number of processes; with 0, everything runs in this process.
        wait_minutes: The workers are ended if no item begins to come for so long, or none arrives
            whole for two to four times as long.
        named: Returns the name of an item, for messages.
        chunk: Items that a worker sends at once.

    Raises:
        ValueError: If a worker died or hangs.
    """
    if workers:
        expect_workers()
    loader = DataLoader(
        dataset,
        batch_size=chunk,
        sampler=numbers,
        num_workers=workers,
        timeout=60 * wait_minutes if workers else 0,
        collate_fn=list,
        worker_init_fn=start_worker,
        generator=torch.Generator(),  # or a seed is drawn from the global generator
    )
    chunks = iter(loader)
    count = 0
    try:
        while True:
            with _limited(chunks, 60 * wait_minutes):
                items = next(chunks, None)
            if items is None:
                return
            yield from items
            count += len(items)
    except RuntimeError as error:
        if not str(error).startswith("DataLoader"):
            raise  # an error in reading an item, not of a worker that died or hangs
        raise ValueError(
            f"{error}, at about {named(numbers[min(count, len(numbers) - 1)])}: if its disk is "
            "well, leave it out or give fewer workers; the same command continues"
        ) from error
    finally:
        end_workers_of(chunks)


@contextmanager
def _limited(chunks: Any, seconds: float) -> Iterator[None]:
    # torch's own limit is for an item to begin. For the rest of it, torch waits for ever, also for
    # a worker that was stopped while it sent; of a worker that was killed it raises an error.
    done = Event()

    def watch() -> None:
        # Items may arrive before the one that is waited for; as long as some do, all is well.
        arrived = -1
        while arrived != arrived_of(chunks):
            arrived = arrived_of(chunks)
            if done.wait(2 * seconds):
                return
        if not done.is_set():
            kill_workers_of(chunks)

    Thread(target=watch, daemon=True).start()
    try:
        yield
    finally:
        done.set()
