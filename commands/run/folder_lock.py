"""The lock of a folder, for a command that must be alone in it."""

from __future__ import annotations

import json
import os
import socket
from contextlib import suppress
from pathlib import Path

from commands.run.files import read_json
from files.locks import locked, unlock_and_close
from files.owned import free_place, hold_place, remove_empty, remove_file

HOLDER = ".enlarger.lock"  # the file in the folder that names the process which holds its lock
_HELD: set[int] = set()  # descriptors of this process


class FolderLock:
    """A lock (flock) of a folder itself: the same through every link or mount that leads to it.

    It needs no file, so nothing that is removed lets a second process in. A forked child does not
    keep it. On a disk that locks only files, such as NFS, the file ``HOLDER`` is locked instead.

    Args:
        folder: The folder; it is made, and removed at the end if it is still empty.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._locked_path = folder  # or HOLDER in it
        self._made_folder = False
        self._descriptor: int | None = None  # which holds the lock while it is open
        self._process = os.getpid()  # forked children have a copy of this lock

    def acquire(self) -> bool:
        """Try once to lock the folder that is now at the path; return whether it is locked.

        Raises:
            OSError: The disk has no locks, or the folder cannot be made.
        """
        self._made_folder |= not self.folder.exists()
        self.folder.mkdir(parents=True, exist_ok=True)
        holder = self.folder / HOLDER
        self._locked_path = self.folder
        try:
            descriptor = locked(self._locked_path)
        except OSError:
            self._locked_path = holder
            descriptor = locked(self._locked_path, os.O_CREAT)
        if descriptor is None:
            return False
        self._free()
        self._descriptor = descriptor
        _HELD.add(descriptor)
        hold_place(self.folder)
        with suppress(OSError):  # a full disk, or a link: the lock holds all the same
            process = {"host": socket.gethostname(), "pid": os.getpid()}
            with open(holder, "w", encoding="utf-8", opener=_open_no_link) as file:
                file.write(json.dumps(process))
        return True

    def release(self) -> None:
        """Free it, if this process holds it."""
        if self._descriptor is None or os.getpid() != self._process:
            return
        with suppress(OSError):
            if os.path.samestat(os.fstat(self._descriptor), self._locked_path.stat()):
                remove_file(self.folder / HOLDER)
                if self._made_folder:
                    remove_empty(self.folder)
        self._free()

    @property
    def is_held(self) -> bool:
        """Whether this object holds the lock."""
        return self._descriptor is not None

    def holder(self) -> str:
        """Return which process holds the lock, such as ``process 4711 on node3``."""
        holder = read_json(self.folder / HOLDER)
        if not holder:  # it is being written, or was removed
            return "another process"
        return f"process {holder.get('pid')} on {holder.get('host')}"

    def _free(self) -> None:
        """Close the descriptor, which frees the lock."""
        if self._descriptor is not None:
            _HELD.discard(self._descriptor)
            unlock_and_close(self._descriptor)
            self._descriptor = None
            free_place(self.folder)


def _open_no_link(path: str, flags: int) -> int:
    """Open a file for writing, but not through a user's link."""
    return os.open(path, flags | os.O_NOFOLLOW, 0o666)


def _free_in_child() -> None:
    """Close a forked child's copies of the descriptors, which are locks of its parent."""
    for descriptor in _HELD:  # or the lock would last as long as the child
        os.close(descriptor)
    _HELD.clear()


os.register_at_fork(after_in_child=_free_in_child)
