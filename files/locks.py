"""Locks of files and folders; the kernel frees them when their process ends, however it ends."""

from __future__ import annotations

import contextlib
import fcntl
import os
from pathlib import Path


def locked(path: Path, flags: int = 0) -> int | None:
    """Lock what is at a path, if no process has it locked.

    Args:
        path: An existing file or folder; a link to a file is refused.
        flags: More flags with which it is opened.

    Returns:
        The open descriptor, which holds the lock; None if another process holds it, or has moved
        what was at the path.

    Raises:
        OSError: It cannot be opened, or the disk has no locks.
    """
    how = os.O_RDONLY if path.is_dir() else os.O_RDWR | os.O_NOFOLLOW
    descriptor = os.open(path, how | flags, 0o666)
    with contextlib.ExitStack() as closing:
        closing.callback(os.close, descriptor)
        with contextlib.suppress(BlockingIOError, FileNotFoundError):
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.path.samestat(os.fstat(descriptor), os.stat(path)):
                closing.pop_all()  # it stays open
                return descriptor
    return None


def lock(descriptor: int) -> None:
    """Wait until no other process locks an open file or folder, and lock it.

    A disk without locks is no error.
    """
    with contextlib.suppress(OSError):
        fcntl.flock(descriptor, fcntl.LOCK_EX)


def free(descriptor: int) -> None:
    """Free a lock, also where a forked child still has the descriptor."""
    with contextlib.suppress(OSError):  # a disk without locks
        fcntl.flock(descriptor, fcntl.LOCK_UN)


def unlock_and_close(descriptor: int) -> None:
    """Free a lock, and close its file or folder."""
    free(descriptor)
    os.close(descriptor)
