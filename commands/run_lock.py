"""One training at a time in a run's directory: a lock that ends with the process that holds it."""

from __future__ import annotations

import errno
import json
import logging
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from commands.errors import TemporaryError
from files.owned import remove_file

try:
    import fcntl
except ImportError:  # Windows has none
    fcntl = None  # type: ignore[assignment]

log = logging.getLogger(__name__)

PATIENCE = 60.0  # seconds: what a killed run has started may end a little later than the run
LOOK = 0.2  # seconds between two tries
_TAKEN = (errno.EWOULDBLOCK, errno.EACCES)
_HELD: set[int] = set()  # descriptors of this process


def lock_of(run: Path) -> Path:
    """The lock of a run: beside its directory, which ``run.overwrite`` gives another name."""
    return run.with_name(f".{run.name}.lock")


@contextmanager
def alone_in(run: Path) -> Iterator[None]:
    """Hold the lock of a run, which the kernel frees when this process ends, however it ends.

    Where the disk has no locks, the run goes on without one, after a warning.

    Args:
        run: The run's directory; it need not exist.

    Raises:
        TemporaryError: Another process holds it.
    """
    path = lock_of(run)
    descriptor = _take(run, path)
    try:
        yield
    finally:
        if descriptor in _HELD:  # and not in a child that was forked within
            remove_file(path)  # while it is held: nobody else's can be at this path
            _HELD.remove(descriptor)
            os.close(descriptor)


def _take(run: Path, path: Path) -> int | None:
    if fcntl is None:
        return None
    begun, told = time.monotonic(), False
    while True:
        try:
            descriptor = _try(path)
        except OSError as error:
            log.warning(
                "%s cannot be locked (%s): nothing keeps a second fit of this run from writing "
                "into the same place",
                *(path, error),
            )
            return None
        if descriptor is not None:
            return descriptor
        waited = time.monotonic() - begun
        if waited >= PATIENCE:
            raise TemporaryError(
                f"the run in {run} is being trained by {_holder(path)}: wait for its end or stop "
                "it, or take another name (--run.name NAME)"
            )
        if waited >= 1 and not told:
            told = True
            log.info("the run in %s is held by %s; waiting for its end", run, _holder(path))
        time.sleep(LOOK)


def _try(path: Path) -> int | None:
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        taken = not _is_at(descriptor, path)  # its last holder has removed it meanwhile
    except OSError as error:
        if error.errno not in (*_TAKEN, errno.ESTALE):  # the last one: removed, on another machine
            os.close(descriptor)
            raise
        taken = True
    if taken:
        os.close(descriptor)
        return None
    _HELD.add(descriptor)
    holder = {"host": socket.gethostname(), "pid": os.getpid()}
    with suppress(OSError):  # a full disk: the lock holds all the same
        os.truncate(descriptor, 0)
        os.write(descriptor, json.dumps(holder).encode())
    return descriptor


def _is_at(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


def _holder(path: Path) -> str:
    try:
        holder = json.loads(path.read_text(encoding="utf-8"))
        return f"process {holder['pid']} on {holder['host']}"
    except (OSError, ValueError, KeyError, TypeError):  # it is being written
        return "another process"


def _leave_to_parent() -> None:
    # A worker of the DataLoader would keep the lock of a killed run for as long as it lives.
    for descriptor in _HELD:
        os.close(descriptor)
    _HELD.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_leave_to_parent)
