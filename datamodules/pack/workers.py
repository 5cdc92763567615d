"""Worker processes that read items in order."""

from __future__ import annotations

import signal
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset

from datamodules.loading import expect_workers, start_worker
from datamodules.torch_internals import end_workers_of


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
        wait_minutes: Longest time without an item from the workers.
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
        collate_fn=list,
        worker_init_fn=start_worker,
        generator=torch.Generator(),  # or a seed is drawn from the global generator
    )
    chunks = iter(loader)
    count = 0
    try:
        while count < len(numbers):
            with _limited(60 * wait_minutes if workers else 0):
                items = next(chunks)
            yield from items
            count += len(items)
    except (RuntimeError, TimeoutError) as error:
        if isinstance(error, RuntimeError) and not str(error).startswith("DataLoader worker"):
            raise  # an error in reading an item, not of a worker that died
        raise ValueError(
            f"{error}, at about {named(numbers[count])}: if its disk is well, leave it out or give "
            "fewer workers; the same command continues"
        ) from error
    finally:
        end_workers_of(chunks)  # torch would wait for one that is stopped


@contextmanager
def _limited(seconds: float) -> Iterator[None]:
    """Limit the time of what is done within; 0 is no limit.

    The DataLoader's own timeout does not end the wait for the rest of a message, if a worker stops
    while it sends one.
    """

    def ring(*_: object) -> None:
        raise TimeoutError(f"the workers gave nothing for {seconds:.0f} s")

    handler = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, handler)
