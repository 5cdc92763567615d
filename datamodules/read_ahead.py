"""Threads that fetch the things needed next, in order."""

from __future__ import annotations

import logging
import threading
import time
from bisect import insort
from collections.abc import Callable, Sequence
from operator import itemgetter
from typing import Generic, TypeVar

log = logging.getLogger(__name__)

PAUSE = 2.0  # seconds until a thing that did not fit is tried again

Thing = TypeVar("Thing")


class ReadAhead(Generic[Thing]):
    """A list of things to fetch, and threads that work through it.

    Args:
        fetch: Fetches one thing; gets a function that returns whether to stop. It returns False if
            there is no room now: the thing is tried again after a pause, before later ones.
        threads: Number of things fetched at a time.
    """

    def __init__(self, fetch: Callable[[Thing, Callable[[], bool]], bool], threads: int) -> None:
        self._fetch = fetch
        self._change = threading.Condition()
        self._waiting: list[tuple[int, Thing]] = []  # things with their places in the list
        self._not_before = 0.0  # when to continue after there was no room
        self._closed = threading.Event()
        self._threads = [
            # Daemons, so that a download of minutes does not delay the end of the process.
            threading.Thread(target=self._work, name=f"read-ahead-{number}", daemon=True)
            for number in range(threads)
        ]
        for thread in self._threads:
            thread.start()

    def ask(self, things: Sequence[Thing]) -> None:
        """Fetch these, soonest first, instead of the previous list."""
        with self._change:
            self._waiting, self._not_before = list(enumerate(things)), 0.0
            self._change.notify_all()

    def close(self) -> None:
        """Stop soon."""
        self._closed.set()
        self.ask(())
        for thread in self._threads:
            if thread is not threading.current_thread():
                thread.join(timeout=2)

    def _work(self) -> None:
        while (taken := self._next()) is not None:
            waiting, place, thing = taken
            try:
                fetched = self._fetch(thing, self._closed.is_set)
            except Exception as error:  # its reader will get the same error, and report it
                log.warning("reading ahead: %s", error)
                continue
            if not fetched:
                self._requeue(waiting, place, thing)

    def _next(self) -> tuple[list[tuple[int, Thing]], int, Thing] | None:
        """Wait for the next thing; return it with its list and place, or None at the end."""
        with self._change:
            while not self._closed.is_set():
                left = self._not_before - time.monotonic()
                if self._waiting and left <= 0:
                    return self._waiting, *self._waiting.pop(0)
                self._change.wait(left if self._waiting else None)
        return None

    def _requeue(self, waiting: list[tuple[int, Thing]], place: int, thing: Thing) -> None:
        with self._change:
            if self._waiting is waiting:  # else the list was replaced
                insort(waiting, (place, thing), key=itemgetter(0))
                self._not_before = time.monotonic() + PAUSE
