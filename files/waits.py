"""What this process waits for, the limit of a wait, and its end after a signal."""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

POLL_SECONDS = 0.25


class Waits:
    """The waits of this process.

    current: What it waits for, in words; empty while it works.
    limit: Seconds after which a wait for a worker or another process is an error.
    leave: Called during a wait in Python; raises if a signal has ended the run.
    """

    def __init__(self) -> None:
        self.current = ""
        self.limit = 600.0
        self.leave: Callable[[], None] = stay


def stay() -> None:
    """Leave no wait: nothing listens to signals here."""


WAITS = Waits()


@contextlib.contextmanager
def watched(check: Callable[[float], None]) -> Iterator[None]:
    """Call a function again and again during a wait, in the main thread, which alone can leave it.

    Args:
        check: Called with the seconds so far; what it raises ends the wait.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    began = time.monotonic()
    checking = False

    def ring(*_: Any) -> None:
        nonlocal checking
        if not checking:  # no check may interrupt another one, which may write a checkpoint
            checking = True
            check(time.monotonic() - began)
            checking = False

    handler = signal.signal(signal.SIGALRM, ring)
    timer = signal.setitimer(signal.ITIMER_REAL, POLL_SECONDS, POLL_SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, *timer)
        signal.signal(signal.SIGALRM, handler)
