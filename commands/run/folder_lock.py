"""The lock of a folder, for a command that must be alone in it."""

from __future__ import annotations

import json
import os
import socket
from contextlib import suppress
from pathlib import Path

from files.locks import locked, unlock
from files.owned import free_place, hold_place, remove_empty, remove_file

HOLDER = ".enlarger.lock"  # the file in the folder that names the process which holds its lock
_HELD: set[int] = set()  # descriptors of this process


class FolderLock:
    """The lock of a folder itself: the same through every link or bind mount that leads to it.

    It needs no file, so nothing that is removed lets a second process in. A forked child does not
    keep it. On a disk that locks only files (NFS), it is the lock of ``HOLDER``.

    Args:
        folder: The folder; it is made, and removed at the end if it is still empty.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self._at = folder, folder
        self._made = False
        self._descriptor: int | None = None
        self._process = os.getpid()

    def acquire(self) -> bool:
        """Try once to lock the folder that is now at the path.

        Raises:
            OSError: The disk has no locks, or the folder cannot be made.
        """
        self._made |= not self.folder.exists()
        self.folder.mkdir(parents=True, exist_ok=True)
        self._at, holder = self.folder, self.folder / HOLDER
        try:
            descriptor = locked(self._at)
        except OSError:
            self._at = holder
            descriptor = locked(self._at, os.O_CREAT)
        if descriptor is None:
            return False
        self._free()
        self._descriptor = descriptor
        _HELD.add(descriptor)
        hold_place(self.folder)
        with suppress(OSError):  # a full disk, or a link: the lock holds all the same
            process = {"host": socket.gethostname(), "pid": os.getpid()}
            with open(holder, "w", encoding="utf-8", opener=_opened) as file:
                file.write(json.dumps(process))
        return True

    def release(self) -> None:
        """Free it, if this process holds it."""
        if self._descriptor is None or os.getpid() != self._process:
            return
        with suppress(OSError):
            if os.path.samestat(os.fstat(self._descriptor), self._at.stat()):
                remove_file(self.folder / HOLDER)
                if self._made:
                    remove_empty(self.folder)
        self._free()

    @property
    def is_held(self) -> bool:
        """Return whether this object has locked it."""
        return self._descriptor is not None

    def holder(self) -> str:
        """Return the process that holds it, in words."""
        try:
            holder = json.loads((self.folder / HOLDER).read_text(encoding="utf-8"))
            return f"process {holder['pid']} on {holder['host']}"
        except (OSError, ValueError, KeyError, TypeError):  # it is being written, or was removed
            return "another process"

    def _free(self) -> None:
        if self._descriptor is not None:
            _HELD.discard(self._descriptor)
            unlock(self._descriptor)
            self._descriptor = None
            free_place(self.folder)


def _opened(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW, 0o666)


def _close_in_child() -> None:
    for descriptor in _HELD:  # or the lock would last as long as the child
        os.close(descriptor)
    _HELD.clear()


os.register_at_fork(after_in_child=_close_in_child)
