"""Worker processes that measure images, in order, and end with the process that started them."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Protocol, TypeAlias, TypeVar

import cv2

from datamodules.shards.reader import WrongBytes
from datamodules.shards.remote import RemoteError
from datamodules.stats.inputs import Place
from datamodules.stats.measure import Row, measured, unreadable

AHEAD = 3  # chunks queued for each worker; more would only take memory
Measured: TypeAlias = tuple[Row, str]


class HasPlaces(Protocol):
    """Anything with places of images."""

    @property
    def places(self) -> list[Place]:
        """Where the images lie."""


Chunk = TypeVar("Chunk", bound=HasPlaces)


def in_order(chunks: Iterator[Chunk], workers: int) -> Iterator[tuple[Chunk, list[Measured]]]:
    """Yield each chunk with what was measured.

    Args:
        chunks: Images by chunk; few are taken in advance.
        workers: Number of processes; with 1, all is measured in this one.

    Raises:
        ValueError: If a worker died, or a tar was changed.
        RemoteError: If a server cannot be reached.
    """
    if workers == 1:
        for chunk in chunks:
            yield chunk, measure_all(chunk.places)
        return
    # No forks of this process, which may have threads (of the progress bar, of a server's client).
    methods = multiprocessing.get_all_start_methods()
    context = multiprocessing.get_context("forkserver" if "forkserver" in methods else "spawn")
    pool = ProcessPoolExecutor(workers, context, initializer=_start)
    waiting: deque[tuple[Chunk, Future[list[Measured]]]] = deque()
    try:
        for chunk in chunks:
            waiting.append((chunk, pool.submit(measure_all, chunk.places)))
            if len(waiting) >= AHEAD * workers:
                chunk, future = waiting.popleft()
                yield chunk, future.result()
        while waiting:
            chunk, future = waiting.popleft()
            yield chunk, future.result()
    except BrokenProcessPool as error:
        raise ValueError(
            "a worker process died, perhaps out of memory: run the same command with fewer "
            "--workers; it continues where it stopped"
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


def measure_all(places: list[Place]) -> list[Measured]:
    """Measure images.

    Raises:
        ValueError: If a tar was changed.
        RemoteError: If a server cannot be reached.
    """
    return [_measured(place) for place in places]


def _measured(place: Place) -> Measured:
    try:
        data = place.read()
    except WrongBytes as error:
        return unreadable(error.reason), f"{place.name}: {error}"
    except RemoteError:
        raise
    except OSError as error:
        return unreadable("missing"), f"{place.name}: {error.strerror or error}"
    return measured(data, place.name)


def _start() -> None:
    cv2.setNumThreads(1)  # a process a core
    # The terminal sends Ctrl-C to all processes of the command; the main one ends the others.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_end_with, args=(parent,), daemon=True).start()


def _end_with(parent: multiprocessing.process.BaseProcess) -> None:
    parent.join()
    os._exit(1)  # the parent was killed, so this work is not needed
