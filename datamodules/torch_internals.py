"""Private names of torch's DataLoader, in one file."""

from __future__ import annotations

import contextlib
import signal
from typing import Any


def end_workers_of(batches: Any) -> None:
    """Kill the workers of an iterator of a DataLoader: torch would wait for one that is stopped.

    Args:
        batches: The iterator; one without workers has none.
    """
    before = signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # torch's handler raises for each
    with contextlib.suppress(AttributeError):
        for worker in batches._workers:
            worker.kill()
        batches._shutdown_workers()
    signal.signal(signal.SIGCHLD, before)
