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
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.path.samestat(os.fstat(descriptor), os.stat(path)):
            return descriptor
    except (BlockingIOError, FileNotFoundError):
        pass
    except OSError:
        os.close(descriptor)
        raise
    os.close(descriptor)
    return None


def lock(descriptor: int) -> None:
    """Lock an open file or folder once no other process holds it; a disk may have no locks."""
    with contextlib.suppress(OSError):
        fcntl.flock(descriptor, fcntl.LOCK_EX)


def try_lock(descriptor: int, shared: bool = False) -> bool:
    """Lock an open file or folder, unless another process holds it.

    Args:
        descriptor: The open file or folder.
        shared: Let other processes share it, so that only an exclusive lock is refused.

    Returns:
        Whether no other process holds it; always true on a disk without locks.
    """
    kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # a disk without locks
        pass
    return True


def unlock(descriptor: int) -> None:
    """Free a lock, also where a forked child still has the descriptor, and close it."""
    with contextlib.suppress(OSError):  # a disk without locks
        fcntl.flock(descriptor, fcntl.LOCK_UN)
    os.close(descriptor)
