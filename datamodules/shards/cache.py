"""Disk cache of remote shards, and reading ahead.

A folder holds complete files under their names, ``*.part`` files of downloads (the expected size is
in the name, so that other processes leave room for them; a killed download is continued), and the
processes' ``locks``. The kernel releases the lock of a process that ends, however it ends. A file's
modification time is that of its last use; a file that a process reads ahead has one in the future,
and stays until then.
"""

from __future__ import annotations

import atexit
import errno
import logging
import math
import os
import re
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from filelock import FileLock, Timeout

from datamodules.shards.remote import FULL, RemoteError, RetryPolicy, Wanted, download, shown
from files.owned import put_in_place, remove_file

log = logging.getLogger(__name__)
PART = re.compile(r"\.(\d+)\.part$")
PAUSE = 2.0  # seconds until a file that did not fit is tried again
HELD = 120.0  # seconds that a file stays after its reader last asked for it


class ReadAhead:
    """Threads that fetch the files of a list, soonest first, and hold them in the cache.

    Args:
        cache: The cache.
        threads: Number of files fetched at a time.
    """

    def __init__(self, cache: DiskCache, threads: int) -> None:
        self._cache, self._pid = cache, os.getpid()
        self._change = threading.Condition()
        self._files: list[Wanted] = []
        self._waiting: list[Wanted] = []
        self._closed = threading.Event()
        # Daemons, so that a download of minutes does not delay the end of the process.
        works = [self._hold, *[self._fetch] * threads]
        self._threads = [threading.Thread(target=work, daemon=True) for work in works]
        for thread in self._threads:
            thread.start()
        atexit.register(self.close)

    def ask(self, files: Sequence[Wanted]) -> None:
        """Fetch and hold these, soonest first, instead of the previous list."""
        self._cache.hold(files)
        with self._change:
            self._files, self._waiting = list(files), list(files)
            self._change.notify_all()

    @property
    def is_of_this_process(self) -> bool:
        """Whether the threads run here; a forked process has none of them."""
        return self._pid == os.getpid()

    def close(self) -> None:
        """Stop soon."""
        if not self.is_of_this_process:
            return
        atexit.unregister(self.close)
        self._closed.set()
        with self._change:
            self._change.notify_all()
        for thread in self._threads:
            if thread is not threading.current_thread():
                thread.join(timeout=2)

    def _hold(self) -> None:
        while not self._closed.wait(HELD / 4):
            self._cache.hold(self._files)

    def _fetch(self) -> None:
        while True:
            with self._change:
                self._change.wait_for(lambda: self._waiting or self._closed.is_set())
                if self._closed.is_set():
                    return
                waiting = self._waiting
                file = waiting.pop(0)
            try:
                if self._cache.fetch(file, self._closed.is_set) is not None:
                    self._cache.hold([file])
                elif not self._cache.is_refused(file):
                    waiting.insert(0, file)  # of no effect if the list was replaced
                    self._closed.wait(PAUSE)
            except Exception as error:  # its reader will get the same error, and report it
                log.warning("reading ahead: %s", error)


class _File(NamedTuple):
    used: float  # time of the last use, in seconds
    size: int
    path: Path
    part: bool

    @property
    def is_held(self) -> bool:
        """Whether a process reads it, or will soon."""
        # Later times were set before a clock was set back.
        return 0 < self.used - time.time() < 2 * HELD


class DiskCache:
    """Files in one folder whose total size never exceeds a limit.

    Args:
        folder: The folder; created if missing.
        limit: Total size in bytes.
        policy: When to give up on a download.
        downloads: Number of files fetched ahead at a time; 0 for none.
    """

    def __init__(self, folder: Path, limit: int, policy: RetryPolicy, downloads: int = 2) -> None:
        self.folder, self.limit, self.policy, self.downloads = folder, limit, policy, downloads
        (folder / "locks").mkdir(parents=True, exist_ok=True)
        self._ahead: ReadAhead | None = None
        self._not_before: dict[str, float] = {}  # when to try files again that did not fit
        self._said = False  # whether a lack of room was logged

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_ahead": None}  # threads are of one process

    # ------------------------------------------------------------------------------------- fetch

    def fetch(self, wanted: Wanted, stopped: Callable[[], bool] = lambda: False) -> Path | None:
        """Return the file on this disk, downloaded if missing.

        Args:
            wanted: The remote file.
            stopped: Polled during the download; None is returned soon after it returns True.

        Returns:
            None if the file cannot be kept: it does not fit, or the server sends other content
            than was indexed. The caller then reads its samples from the server.

        Raises:
            RemoteError: If the download fails.
        """
        path = self.folder / wanted.name
        if self._has(path, wanted):
            return path
        # Without this pause, each sample would wait for the locks and list the folder.
        if time.monotonic() < self._not_before.get(wanted.name, 0.0):
            return None
        with self._lock(wanted.name):
            if self._has(path, wanted):  # another process was faster
                return path
            return path if self._download(wanted, path, stopped) else None

    def drop(self, wanted: Wanted) -> None:
        """Remove a file that is damaged on the disk."""
        with self._lock(wanted.name):
            remove_file(self.folder / wanted.name)

    def _has(self, path: Path, wanted: Wanted) -> bool:
        try:
            state = path.stat()
        except FileNotFoundError:
            return False
        if state.st_mtime < time.time():  # else it is held
            with suppress(OSError):  # another user's
                os.utime(path)
        return state.st_size == wanted.size

    def _download(self, wanted: Wanted, path: Path, stopped: Callable[[], bool]) -> bool:
        part = path.with_name(f"{path.name}.{wanted.size}.part")
        if not self._make_room(wanted.size, part):
            self._warn_no_room(wanted)
            return False
        try:
            download(wanted, part, self.policy, stopped)
        except OSError as error:
            content = isinstance(error, RemoteError) and error.kind == "content"
            if content or error.errno in FULL or not _written(part):
                remove_file(part)
            if content:
                self._refuse_file(wanted, error)
            elif error.errno in FULL:
                self._warn_no_room(wanted)
                if error.errno == errno.EDQUOT:  # which free space does not show
                    self.limit = sum(file.size for file in self._files())
            else:
                raise
            return False
        if stopped():
            return False
        put_in_place(part, path)
        return True

    def is_refused(self, wanted: Wanted) -> bool:
        """Return whether the server sends another file than was indexed."""
        return self._not_before.get(wanted.name) == math.inf

    def _refuse_file(self, wanted: Wanted, error: OSError) -> None:
        self._not_before[wanted.name] = math.inf
        log.warning(
            "%s is not the file that was indexed; its samples are read one by one, and samples "
            "with other bytes count as broken: %s",
            shown(wanted.url),
            error,
        )

    # -------------------------------------------------------------------------------------- room

    def _make_room(self, needed: int, part: Path) -> bool:
        """Remove the least recently used files until ``needed`` bytes are free; reserve ``part``.

        Args:
            needed: Bytes to free.
            part: The file that needs them.
        """
        with self._lock("evict"):
            files = [file for file in self._files() if file.path != part]
            over = sum(file.size for file in files) + needed - self.limit
            over = max(over, needed - _written(part) - shutil.disk_usage(self.folder).free)
            chosen = []
            for file in sorted(files, key=lambda file: (not file.part, file.used)):
                if over <= 0:
                    break
                if not self._in_use(file, part):
                    chosen.append(file.path)
                    over -= file.size
            if over > 0:
                return False
            for path in chosen:
                remove_file(path)  # processes that have it open can still read it
            part.touch()
        return True

    def _files(self) -> Iterator[_File]:
        locks = set(os.listdir(self.folder / "locks"))
        for entry in os.scandir(self.folder):
            with suppress(FileNotFoundError):
                # Each download leaves its lock; a file without one is not ours.
                name = PART.sub("", entry.name)
                own = re.match(r"[0-9a-f]{16}-", name) and f"{name}.lock" in locks
                if own and entry.is_file(follow_symlinks=False):
                    state, part = entry.stat(), PART.search(entry.name)
                    size = max(state.st_size, int(part[1]) if part else 0)
                    yield _File(state.st_mtime, size, Path(entry.path), part is not None)

    def _lock(self, name: str, timeout: float = -1) -> FileLock:
        return FileLock(self.folder / "locks" / f"{name}.lock", timeout=timeout)

    def _in_use(self, file: _File, own: Path) -> bool:
        if not file.part:
            return file.is_held
        # This process holds the lock of its own file's part, whatever size that has.
        return PART.sub("", file.path.name) != PART.sub("", own.name) and self._busy(file.path)

    def _busy(self, part: Path) -> bool:
        try:
            with self._lock(PART.sub("", part.name), timeout=0):
                return False
        except Timeout:
            return True

    def _warn_no_room(self, wanted: Wanted) -> None:
        self._not_before[wanted.name] = time.monotonic() + PAUSE
        if self._said:
            return
        self._said = True
        held = [file.size for file in self._files() if file.is_held]
        log.warning(
            "the cache %s of %d bytes, or its disk, is smaller than what is read at the same time: "
            "%d shards of %d bytes are in use or next on this node; others, such as %s, are read "
            "from the server, sample by sample: raise Shards.cache_size, or lower "
            "data.init_args.streams, as each stream reads its own shards",
            self.folder,
            self.limit,
            len(held),
            sum(held),
            shown(wanted.url),
        )

    # ------------------------------------------------------------------------------ what is next

    def read_ahead(self, wanted: Sequence[Wanted]) -> None:
        """Download files in the background, and hold them, so that no process removes them.

        Args:
            wanted: The files in use and the next ones, soonest first. Each call replaces the
                previous one.
        """
        if self._ahead is None or not self._ahead.is_of_this_process:
            self._ahead = ReadAhead(self, self.downloads)
        self._ahead.ask(wanted)

    def hold(self, files: Sequence[Wanted]) -> None:
        """Let no process remove those of some files that are here, for a while."""
        until = time.time() + HELD
        for file in files:
            with suppress(OSError):  # it is not here, or another user's
                os.utime(self.folder / file.name, (until, until))

    def close(self) -> None:
        """Stop fetching ahead."""
        if self._ahead is not None:
            self._ahead.close()
        self._ahead = None


def _written(part: Path) -> int:
    return part.stat().st_size if part.exists() else 0
