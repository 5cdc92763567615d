"""One training at a time in a run directory: a lock that ends with the process that holds it."""

from __future__ import annotations

import json
import logging
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from commands.errors import TemporaryError
from files.owned import remove_file

log = logging.getLogger(__name__)

LOCK_SECONDS = 60.0  # what a killed run has started may end a little later than the run
SILENT_SECONDS = 1.0  # of them, before the log names the holder
POLL_SECONDS = 0.2


def lock_of(run: Path) -> Path:
    """Return the lock of a run: beside its directory, which ``run.overwrite`` renames."""
    return run.with_name(f".{run.name}.lock")


@contextmanager
def alone_in(run: Path) -> Iterator[None]:
    """Hold the lock of a run, which the kernel frees when this process ends, however it ends.

    A forked worker does not keep it. On a disk without locks, the run continues without one, after
    a warning.

    Args:
        run: The run directory; it need not exist.

    Raises:
        TemporaryError: Another process holds the lock.
    """
    path = lock_of(run)
    lock = FileLock(path, fallback_to_soft=False)
    try:
        _acquire(lock, run)
        holder = {"host": socket.gethostname(), "pid": os.getpid()}
        with suppress(OSError):  # a full disk: the lock holds all the same
            path.write_text(json.dumps(holder), encoding="utf-8")
    except OSError as error:
        log.warning(
            "%s cannot be locked (%s): nothing prevents a second fit of this run from writing to "
            "the same folder",
            *(path, error),
        )
    try:
        yield
    finally:
        if lock.is_locked:  # false in a forked child
            remove_file(path)  # while it is held: it cannot be another process's
            lock.release()


def _acquire(lock: FileLock, run: Path) -> None:
    path = Path(lock.lock_file)
    path.parent.mkdir(parents=True, exist_ok=True)
    with suppress(Timeout):
        lock.acquire(min(SILENT_SECONDS, LOCK_SECONDS), poll_interval=POLL_SECONDS)
        return
    log.info("the run in %s is locked by %s; waiting for it to end", run, _holder(path))
    try:
        lock.acquire(max(LOCK_SECONDS - SILENT_SECONDS, 0.0), poll_interval=POLL_SECONDS)
    except Timeout:
        raise TemporaryError(
            f"the run in {run} is being trained by {_holder(path)}: wait until it ends or stop it, "
            "or choose another name (--run.name NAME)"
        ) from None


def _holder(path: Path) -> str:
    try:
        holder = json.loads(path.read_text(encoding="utf-8"))
        return f"process {holder['pid']} on {holder['host']}"
    except (OSError, ValueError, KeyError, TypeError):  # it is being written
        return "another process"
