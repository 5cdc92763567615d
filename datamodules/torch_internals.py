"""Private names of torch's DataLoader, in one file."""

from __future__ import annotations

import threading
from typing import Any

from torch._C import _remove_worker_pids


def arrived_of(batches: Any) -> int:
    """Return how many items have come from workers but wait for an earlier one.

    Args:
        batches: An iterator of a DataLoader; one without workers has none.
    """
    # Of each item that is not yet returned: its worker, and the item if it is there.
    return sum(len(known) > 1 for known in list(getattr(batches, "_task_info", {}).values()))


def kill_workers_of(batches: Any) -> None:
    """Kill the workers of an iterator of a DataLoader; waiting for one then raises torch's error.

    Args:
        batches: The iterator; one without workers has none.
    """
    for worker in getattr(batches, "_workers", ()):
        worker.kill()


def end_workers_of(batches: Any) -> None:
    """Kill the workers of an iterator of a DataLoader: torch would wait for one that is stopped.

    Args:
        batches: The iterator; one without workers has none.
    """
    workers = getattr(batches, "_workers", ())
    if not workers:
        return
    if batches._worker_pids_set:  # else torch raises for each that is killed
        _remove_worker_pids(id(batches))
        batches._worker_pids_set = False
    kill_workers_of(batches)
    # One that was killed may hold the lock of torch's event, for which torch would wait for ever.
    batches._workers_done_event = threading.Event()
    batches._shutdown_workers()
