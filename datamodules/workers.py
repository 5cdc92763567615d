"""Worker processes that process items in order, and end with the process that started them."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from itertools import islice
from multiprocessing.process import BaseProcess
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")
CHUNK = 4  # inputs sent to a worker at once: a message costs as much as a tiny image
AHEAD = 3  # chunks queued or finished per worker; more would only take memory
FEW = 16  # inputs that justify starting one more process


def usable_cores() -> int:
    """Return the number of cores that this process may use."""
    known = hasattr(os, "sched_getaffinity")  # on Linux
    return len(os.sched_getaffinity(0)) if known else os.cpu_count() or 1


def in_order(
    function: Callable[[Item], Result], items: Iterable[Item], workers: int, count: int
) -> Generator[Result, None, None]:
    """``map(function, items)`` in several processes, which end with this one, however it ends.

    Args:
        function: A picklable function that depends only on its argument.
        items: Its arguments.
        workers: Largest number of processes; with 0, everything runs in this process.
        count: About how many items there are.

    Raises:
        ValueError: If a worker died.
    """
    if not workers:
        yield from map(function, items)
        return
    context = multiprocessing.get_context("forkserver")  # no fork of this one, which has threads
    workers = max(1, min(workers, -(-count // FEW)))
    pool = ProcessPoolExecutor(workers, context, _begin)
    waiting: deque[tuple[list[Item], Future[list[Result]]]] = deque()
    source = iter(items)
    chunks = iter(lambda: list(islice(source, CHUNK)), [])
    some: list[Item] = []
    try:
        for chunk in chunks:
            waiting.append((chunk, pool.submit(partial(_results, function), chunk)))
            if len(waiting) >= AHEAD * workers:
                some, future = waiting.popleft()
                yield from future.result()
        while waiting:
            some, future = waiting.popleft()
            yield from future.result()
    except BrokenProcessPool as error:
        raise ValueError(
            f"a worker process died, perhaps out of memory or of a crash in a decoder, at about "
            f"{some[0]!r:.300}: run the same command with fewer --workers, or without that file; "
            "it continues where it stopped"
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


def _results(function: Callable[[Item], Result], items: list[Item]) -> list[Result]:
    return [function(item) for item in items]


def _begin() -> None:
    """Let this worker end with its parent, and with nothing else."""
    # The terminal sends Ctrl-C to all processes of the command; the main one ends the others.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_end_with, args=(parent,), daemon=True).start()


def _end_with(parent: BaseProcess) -> None:
    parent.join()
    os._exit(1)  # the parent was killed, so this work is not needed
