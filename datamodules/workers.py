"""Worker processes that process items in order, and end with the process that started them."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sized
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from itertools import islice
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")
Prepare = Callable[[list[Item]], Iterable[Item]]
CHUNK = 4  # inputs sent to a worker at once: a message costs as much as a tiny image
AHEAD = 3  # chunks queued or finished per worker; more would only take memory
FEW = 16  # so few inputs do not justify starting processes


def usable_cores() -> int:
    """Return the number of cores that this process may use."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not Linux
        return os.cpu_count() or 1


def in_order(
    function: Callable[[Item], Result],
    items: Iterable[Item],
    workers: int,
    count: int | None = None,
    prepare: Prepare[Item] | None = None,
    chunk: int = CHUNK,
    start: Callable[[], object] | None = None,
) -> Generator[Result, None, None]:
    """``map(function, items)`` in several processes, which end with this one, however it ends.

    Args:
        function: A picklable function that depends only on its argument.
        items: Its arguments; a few are processed in this process.
        workers: Largest number of processes; with 1, everything runs in this process.
        count: About how many items there are, if they have no length.
        prepare: Prepares some items, where they are processed, such as by downloads.
        chunk: Number of items that are sent to a process at once.
        start: Called once in each worker.

    Raises:
        ValueError: If a worker died.
    """
    count = len(items) if isinstance(items, Sized) else count
    workers = min(workers, -(-(count or 0) // FEW))
    if workers <= 1:
        for some in _chunks(items, chunk):
            yield from map(function, some if prepare is None else prepare(some))
        return
    # Not a fork of this process, which has threads (of the progress bar), and whose open pipe ends
    # would keep orphans waiting.
    methods = multiprocessing.get_all_start_methods()
    context = multiprocessing.get_context("forkserver" if "forkserver" in methods else "spawn")
    pool = ProcessPoolExecutor(workers, context, initializer=_start, initargs=(start,))
    try:
        yield from _ordered(pool, partial(_each, function, prepare), _chunks(items, chunk), workers)
    except BrokenProcessPool as error:
        raise ValueError(
            "a worker process died, perhaps out of memory: run the same command with fewer "
            "--workers; it continues where it stopped (--workers 1 shows an image that kills its "
            "decoder)"
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


def _ordered(
    pool: ProcessPoolExecutor,
    function: Callable[[list[Item]], list[Result]],
    chunks: Iterable[list[Item]],
    workers: int,
) -> Iterator[Result]:
    waiting: deque[Future[list[Result]]] = deque()
    for chunk in chunks:
        waiting.append(pool.submit(function, chunk))
        if len(waiting) >= AHEAD * workers:
            yield from waiting.popleft().result()
    while waiting:
        yield from waiting.popleft().result()


def _chunks(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    source = iter(items)
    return iter(lambda: list(islice(source, size)), [])


def _each(
    function: Callable[[Item], Result], prepare: Prepare[Item] | None, items: list[Item]
) -> list[Result]:
    return [function(item) for item in (items if prepare is None else prepare(items))]


def _start(more: Callable[[], object] | None) -> None:
    # The terminal sends Ctrl-C to all processes of the command; the main one ends the others.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    if more is not None:
        more()


def _end_with(parent: multiprocessing.process.BaseProcess) -> None:
    parent.join()
    os._exit(1)  # the parent was killed, so this work is not needed
