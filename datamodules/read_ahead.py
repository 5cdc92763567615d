"""Threads that fetch what is needed next, in its order."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

log = logging.getLogger(__name__)

Thing = TypeVar("Thing")


class ReadAhead(Generic[Thing]):
    """A list of things to fetch, and threads that work through it.

    Args:
        fetch: Fetches one; is given a function that says when to stop. None: no room for more.
        threads: How many are fetched at a time.
    """

    def __init__(
        self, fetch: Callable[[Thing, Callable[[], bool]], object | None], threads: int
    ) -> None:
        self._fetch = fetch
        self._change = threading.Condition()
        self._waiting: list[Thing] = []
        self._closed = threading.Event()
        self._threads = [
            # They must not keep a process from ending: a download may take minutes.
            threading.Thread(target=self._work, name=f"read-ahead-{number}", daemon=True)
            for number in range(threads)
        ]
        for thread in self._threads:
            thread.start()

    def ask(self, things: Sequence[Thing]) -> None:
        """Fetch these, soonest first, instead of what was asked for before."""
        with self._change:
            self._waiting = list(things)
            self._change.notify_all()

    def close(self) -> None:
        """Stop, soon."""
        self._closed.set()
        self.ask(())
        for thread in self._threads:
            if thread is not threading.current_thread():
                thread.join(timeout=2)

    def _work(self) -> None:
        while not self._closed.is_set():
            with self._change:
                self._change.wait_for(lambda: self._waiting or self._closed.is_set())
                if self._closed.is_set():
                    return
                thing = self._waiting.pop(0)
            try:
                if self._fetch(thing, self._closed.is_set) is None:
                    self.ask(())  # until the next list
            except Exception as error:  # the reader of it will meet the same, and say it
                log.warning("reading ahead: %s", error)
