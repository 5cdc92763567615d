"""Worker processes that process items in order, and end with the process that started them."""

from __future__ import annotations

import multiprocessing
import os
import queue
import signal
import threading
import traceback
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sized
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from itertools import islice
from multiprocessing.process import BaseProcess
from typing import Any, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")
CHUNK = 4  # inputs sent to a worker at once: a message costs as much as a tiny image
AHEAD = 3  # chunks queued or finished per worker; more would only take memory
FEW = 16  # inputs that justify starting one more process
TOO_SLOW, CRASH = "too slow", "crash"
TIME_LIMIT = 60.0  # seconds of decoding an image
# Signals by which an item ends its worker. SIGKILL is none: the memory may have run out.
CRASHES = ("SIGSEGV", "SIGBUS", "SIGFPE", "SIGILL", "SIGABRT")
REASONS = {"SIGALRM": TOO_SLOW, **dict.fromkeys(CRASHES, CRASH)}
_is_worker = False


def usable_cores() -> int:
    """Return the number of cores that this process may use."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not Linux
        return os.cpu_count() or 1


def mark_expendable() -> None:
    """Let ``time_limit`` end this process, as its work is done again by another one."""
    global _is_worker
    _is_worker = True


@contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """End this worker if the block takes longer, even in a decoder that never returns to Python.

    There is no limit in processes that are not expendable, nor on Windows.

    Args:
        seconds: The limit.
    """
    if not _is_worker or not hasattr(signal, "setitimer"):
        yield
        return
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def lost_in_decoding(where: str, reason: str, seconds: float) -> str:
    """Return a message on an image that ended two workers.

    Args:
        where: Its name.
        reason: ``TOO_SLOW`` or ``CRASH``.
        seconds: The time limit.
    """
    slow = f"not decoded in --decode-timeout {seconds:g} s"
    return f"{where}: {slow if reason == TOO_SLOW else 'its decoder crashes'}"


def in_order(
    function: Callable[[Item], Result],
    items: Iterable[Item],
    workers: int,
    lost: Callable[[Item, str], Result],
    count: int | None = None,
) -> Generator[Result, None, None]:
    """``map(function, items)`` in several processes, which end with this one, however it ends.

    Args:
        function: A picklable function that depends only on its argument.
        items: Its arguments.
        workers: Largest number of processes; with 0, everything runs in this process.
        lost: Returns the result of an item that ended two workers, from the item and ``TOO_SLOW``
            or ``CRASH``.
        count: About how many items there are, if they have no length.

    Raises:
        ValueError: If a worker was killed.
    """
    count = len(items) if isinstance(items, Sized) else count
    if not workers:
        yield from map(function, items)
        return
    workers = max(1, min(workers, -(-(count or 0) // FEW)))
    pool = _Pool(workers, function, lost)
    try:
        waiting: deque[Future[list[Result]]] = deque()
        for some in _chunks(items):
            waiting.append(pool.submit(some))
            if len(waiting) >= AHEAD * workers:
                yield from waiting.popleft().result()
        while waiting:
            yield from waiting.popleft().result()
    finally:
        pool.close()


def _chunks(items: Iterable[Item]) -> Iterator[list[Item]]:
    source = iter(items)
    return iter(lambda: list(islice(source, CHUNK)), [])


class _Ended(Exception):  # noqa: N818  (names what happened)
    """A worker ended before it had answered."""


class _Worker:
    """A process that waits for items.

    Args:
        function: As of ``in_order``.
    """

    def __init__(self, function: Callable[[Any], Any]) -> None:
        # Not a fork of this process, which has threads, and whose open pipe ends would keep orphans
        # waiting.
        methods = multiprocessing.get_all_start_methods()
        context: Any = multiprocessing.get_context(
            "forkserver" if "forkserver" in methods else "spawn"
        )
        self._pipe, theirs = context.Pipe()
        self.process: BaseProcess = context.Process(
            target=_serve, args=(theirs, function), daemon=True
        )
        self.process.start()
        theirs.close()

    def results(self, items: list[Any]) -> Iterator[Any]:
        """Yield the results of some items.

        Raises:
            _Ended: If the process ended.
        """
        for number in range(len(items)):
            try:
                if number == 0:
                    self._pipe.send(items)
                result, error = self._pipe.recv()
            except (EOFError, OSError) as ended:
                raise _Ended from ended
            if error is not None:
                raise error
            yield result


class _Pool:
    """Workers, each with a thread of this process that waits for its results.

    Args:
        workers: Number of processes.
        function: As of ``in_order``.
        lost: As of ``in_order``.
    """

    def __init__(
        self, workers: int, function: Callable[[Any], Any], lost: Callable[[Any, str], Any]
    ) -> None:
        self._function, self._lost, self._open = function, lost, True
        self._lock = threading.Lock()  # two threads must not ask for the end of one process
        self._workers = [_Worker(function) for _ in range(workers)]
        self._idle: queue.SimpleQueue[int] = queue.SimpleQueue()
        for number in range(workers):
            self._idle.put(number)
        self._threads = ThreadPoolExecutor(workers)

    def submit(self, items: list[Any]) -> Future[list[Any]]:
        """Return the results of some items, which come later."""
        return self._threads.submit(self._results, items)

    def close(self) -> None:
        """End all processes."""
        with self._lock:
            self._open = False
            for worker in self._workers:
                worker.process.kill()
        self._threads.shutdown(cancel_futures=True)

    def _results(self, items: list[Any]) -> list[Any]:
        results: list[Any] = []
        ended = -1  # the item that ended a worker
        number = self._idle.get()
        try:
            while len(results) < len(items):
                try:
                    for result in self._workers[number].results(items[len(results) :]):
                        results.append(result)
                except _Ended:
                    item = items[len(results)]
                    reason = self._replace(number, item)
                    if ended == len(results):
                        results.append(self._lost(item, reason))
                    else:  # once more: the time may have passed while the processes were stopped
                        ended = len(results)
        finally:
            self._idle.put(number)
        return results

    def _replace(self, number: int, item: Any) -> str:
        """Replace a worker that ended, and return why it did.

        Raises:
            ValueError: If it is not because of its item.
        """
        with self._lock:
            process = self._workers[number].process
            process.join()
            status = process.exitcode or 0
            reason = REASONS.get(signal.Signals(-status).name) if status < 0 else None
            if reason is None or not self._open:
                raise ValueError(
                    f"a worker process died (status {status}), perhaps out of memory, at "
                    f"{item!r:.300}: run the same command with fewer --workers; it continues where "
                    "it stopped"
                )
            self._workers[number] = _Worker(self._function)
            return reason


def _serve(pipe: Any, function: Callable[[Any], Any]) -> None:
    """Answer items by results, or by an error, until the parent ends."""
    mark_expendable()
    # The terminal sends Ctrl-C to all processes of the command; the main one ends the others.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    with suppress(EOFError, BrokenPipeError):
        while True:
            items = pipe.recv()
            try:
                for item in items:
                    pipe.send((function(item), None))
            except Exception as error:
                error.add_note(traceback.format_exc())
                pipe.send((None, error))


def _end_with(parent: BaseProcess) -> None:
    parent.join()
    os._exit(1)  # the parent was killed, so this work is not needed
