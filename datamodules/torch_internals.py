"""Private names of torch's DataLoader, in one file."""

from __future__ import annotations

import contextlib
import signal
from multiprocessing.process import BaseProcess
from typing import Any


def workers_of(batches: Any) -> list[BaseProcess]:
    """Return the worker processes of an iterator of a DataLoader, by number.

    Args:
        batches: The iterator; one without workers has none.
    """
    return list(getattr(batches, "_workers", ()))


def end_workers_of(batches: Any) -> None:
    """Kill the workers of an iterator of a DataLoader: torch would wait for one that is stopped.

    Args:
        batches: The iterator.
    """
    before = signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # torch's handler raises for each
    with contextlib.suppress(AttributeError):
        for worker in workers_of(batches):
            worker.kill()
        batches._shutdown_workers()
    signal.signal(signal.SIGCHLD, before)
