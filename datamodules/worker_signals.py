"""Signals that a whole group of processes gets are for the one that trains, not for its workers."""

from __future__ import annotations

import atexit
import functools
import multiprocessing
import multiprocessing.util
import os
import signal
from types import FrameType


def leave_signals_to_the_owner() -> None:
    """Called in each worker of a DataLoader: outlive what launchers and terminals send to all.

    torchrun, SLURM and Ctrl-C signal every process of a group. A worker that dies of it takes the
    training down in the middle of a step, which was about to stop after it. The owner ends its
    workers itself; where it is killed, they notice within seconds.
    """
    for name in ("SIGINT", "SIGUSR1"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    # The second one counts: with that the owner ends a worker that hangs.
    signal.signal(signal.SIGTERM, _once)
    # An orphan would wait for ever until its images are read: it holds both ends of the pipe.
    # Before what multiprocessing itself does at a worker's end, which has a priority below zero.
    multiprocessing.util.Finalize(None, _end_orphan, (os.getppid(),), exitpriority=0)


@functools.cache  # once a process
def end_workers_at_exit() -> None:
    """Called in the owner: let its end be that of its workers, also after an error.

    Python asks them by one SIGTERM, which they outlive, and then waits for them. This comes before.
    """
    atexit.register(_end_workers)


def _end_workers() -> None:
    if hasattr(signal, "SIGCHLD"):
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # torch's raises where a worker was killed
    for child in multiprocessing.active_children():
        if child.daemon:
            child.kill()


def _end_orphan(owner: int) -> None:
    if os.getppid() != owner:
        os._exit(1)


def _once(number: int, frame: FrameType | None) -> None:
    signal.signal(number, signal.SIG_DFL)
