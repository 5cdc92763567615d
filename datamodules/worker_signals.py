"""Make workers ignore signals to the process group, which are for the training process."""

from __future__ import annotations

import atexit
import functools
import multiprocessing
import multiprocessing.util
import os
import signal
from types import FrameType


def leave_signals_to_the_owner() -> None:
    """Let a DataLoader's worker survive signals that launchers and terminals send to the group.

    torchrun, SLURM and Ctrl-C signal every process of a group. A worker that dies of it stops the
    training in the middle of a step, instead of after it. The owner ends its workers itself; if it
    is killed, they notice within seconds.
    """
    for name in ("SIGINT", "SIGUSR1"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    # The second signal counts: with it the owner ends a worker that hangs.
    signal.signal(signal.SIGTERM, _ignore_once)
    # An orphan would wait forever until its images are read, as it holds both ends of the pipe.
    # Before multiprocessing's own finalizers, which have a priority below zero.
    multiprocessing.util.Finalize(None, _end_orphan, (os.getppid(),), exitpriority=0)


@functools.cache  # once per process
def end_workers_at_exit() -> None:
    """End the workers with their owner, even after an error.

    Python sends them one SIGTERM, which they survive, and then waits for them. This runs before.
    """
    atexit.register(_end_workers)


def _end_workers() -> None:
    if hasattr(signal, "SIGCHLD"):
        signal.signal(
            signal.SIGCHLD, signal.SIG_DFL
        )  # torch's handler raises if a worker was killed
    for child in multiprocessing.active_children():
        if child.daemon:
            child.kill()


def _end_orphan(owner: int) -> None:
    if os.getppid() != owner:
        os._exit(1)


def _ignore_once(number: int, frame: FrameType | None) -> None:
    signal.signal(number, signal.SIG_DFL)
