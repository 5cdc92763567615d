"""Disk cache of remote shards, and reading ahead.

A folder holds complete files under their names, ``*.part`` files of downloads (the expected size is
in the name, so that other processes leave room for them; a killed download is continued), and the
processes' ``locks`` and ``claims``. The kernel holds a lock for a process and releases it when the
process ends, however it ends.
"""

from __future__ import annotations

import atexit
import fcntl
import hashlib
import json
import logging
import math
import os
import re
import shutil
import threading
import time
import uuid
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from filelock import FileLock, Timeout

from datamodules.shards.index import checksum_of
from datamodules.shards.remote import (
    FULL,
    Attempts,
    RemoteError,
    RetryPolicy,
    WrongContent,
    download,
    shown,
)
from files.owned import put_in_place, remove_file

log = logging.getLogger(__name__)
PAUSE = 2.0  # seconds until a thing that did not fit is tried again


class ReadAhead:
    """A list of files to fetch, and threads that work through it.

    Args:
        fetch: Fetches one file; gets a function that returns whether to stop. It returns False if
            there is no room now: the file is tried again after a pause, before later ones.
        threads: Number of files fetched at a time.
    """

    def __init__(self, fetch: Callable[[Wanted, Callable[[], bool]], bool], threads: int) -> None:
        self._fetch = fetch
        self._change = threading.Condition()
        self._waiting: list[Wanted] = []
        self._closed = threading.Event()
        self._threads = [
            # Daemons, so that a download of minutes does not delay the end of the process.
            threading.Thread(target=self._work, name=f"read-ahead-{number}", daemon=True)
            for number in range(threads)
        ]
        for thread in self._threads:
            thread.start()

    def ask(self, files: Sequence[Wanted]) -> None:
        """Fetch these, soonest first, instead of the previous list."""
        with self._change:
            self._waiting = list(files)
            self._change.notify_all()

    def close(self) -> None:
        """Stop soon."""
        self._closed.set()
        self.ask(())
        for thread in self._threads:
            if thread is not threading.current_thread():
                thread.join(timeout=2)

    def _work(self) -> None:
        while True:
            with self._change:
                self._change.wait_for(lambda: self._waiting or self._closed.is_set())
                if self._closed.is_set():
                    return
                waiting = self._waiting
                file = waiting.pop(0)
            try:
                fetched = self._fetch(file, self._closed.is_set)
            except Exception as error:  # its reader will get the same error, and report it
                log.warning("reading ahead: %s", error)
                continue
            if not fetched:
                waiting.insert(0, file)  # of no effect if the list was replaced
                self._closed.wait(PAUSE)


PART = re.compile(r"\.(\d+)\.part$")
OLD_PART = 24 * 3600.0  # seconds after which a partial download counts as abandoned
ROOM_PAUSE = 2.0  # seconds before a file that did not fit is tried again


class Wanted(NamedTuple):
    """A remote file.

    Args:
        url: Its address.
        version: The version that the server reports; another version is another file.
        size: Size in bytes.
        checksum: Hexadecimal xxh3_128 of the content, if known.
    """

    url: str
    version: str
    size: int
    checksum: str | None = None

    @property
    def name(self) -> str:
        """The file's name in the cache."""
        digest = hashlib.blake2b(f"{self.url}\n{self.version}".encode(), digest_size=8).hexdigest()
        file = re.sub(r"[^\w.-]", "_", shown(self.url).rpartition("/")[2])[-80:]
        return f"{digest}-{file}"


class _File(NamedTuple):
    used: float  # time of the last use, in seconds
    size: int
    path: Path
    part: bool


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
        for place in (folder, folder / "locks", folder / "claims"):
            place.mkdir(parents=True, exist_ok=True)
        self._forget()
        with self._lock("evict"):
            for file in self._files():
                if file.part and time.time() - file.used > OLD_PART and not self._busy(file.path):
                    remove_file(file.path)

    def _forget(self) -> None:
        """Reset to a process that has claimed nothing and fetches nothing ahead."""
        self._pid = os.getpid()
        self._ahead: ReadAhead | None = None
        self._claims: tuple[int, Path] | None = None  # the locked descriptor, and its list
        self._claimed: list[str] = []
        self._not_before: dict[str, float] = {}  # when to try files again that did not fit
        self._said = False  # whether a lack of room was logged

    def __getstate__(self) -> dict[str, Any]:
        keep = ("folder", "limit", "policy", "downloads")
        return {name: getattr(self, name) for name in keep}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._forget()

    def __del__(self) -> None:
        with suppress(Exception):  # at exit, modules may be gone
            self.close()

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
            if state.st_size != wanted.size:
                return False
            os.utime(path)  # the time of its last use
        except FileNotFoundError:
            return False
        return True

    def _download(self, wanted: Wanted, path: Path, stopped: Callable[[], bool]) -> bool:
        part = path.with_name(f"{path.name}.{wanted.size}.part")
        if not self._make_room(wanted.size, part):
            self._warn_no_room(wanted)
            return False
        attempts = Attempts(wanted.url, self.policy)
        while not stopped():
            try:
                download(wanted.url, part, wanted.size, self.policy, stopped)
                if stopped():
                    break
                _verify(part, wanted)
                put_in_place(part, path)
                return True
            except WrongContent as error:
                remove_file(part)
                try:
                    attempts.failed(error)
                except RemoteError as last:
                    self._refuse_file(wanted, last)
                    return False
            except RemoteError as error:
                if error.kind != "content":
                    if not _written(part):
                        remove_file(part)
                    raise
                remove_file(part)
                self._refuse_file(wanted, error)
                return False
            except OSError as error:
                if error.errno not in FULL:
                    raise
                if not self._make_room(max(wanted.size - _written(part), 1), part, full=True):
                    remove_file(part)
                    self._warn_no_room(wanted)
                    return False
        return False

    def _refuse_file(self, wanted: Wanted, error: RemoteError) -> None:
        self._not_before[wanted.name] = math.inf
        log.warning(
            "%s is not the file that was indexed; its samples are read one by one, and samples "
            "with other bytes count as broken: %s",
            shown(wanted.url),
            error,
        )

    # -------------------------------------------------------------------------------------- room

    def _make_room(self, needed: int, part: Path, full: bool = False) -> bool:
        """Remove the least recently used files until ``needed`` bytes are free; reserve ``part``.

        Args:
            needed: Bytes to free.
            part: The file that needs them.
            full: Whether the disk is full, whatever the limit is.
        """
        with self._lock("evict"):
            files = [file for file in self._files() if file.path != part]
            over = sum(file.size for file in files) + needed - self.limit
            over = max(over, needed - _written(part) - shutil.disk_usage(self.folder).free)
            over = max(over, needed, 1) if full else over
            claimed = self._claimed_by_all()
            chosen = []
            for file in sorted(files, key=lambda file: (not file.part, file.used)):
                if over <= 0:
                    break
                if not self._in_use(file, claimed, part):
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

    def _in_use(self, file: _File, claimed: set[str], own: Path) -> bool:
        if not file.part:
            return file.path.name in claimed
        # This process holds the lock of its own file's part, whatever size that has.
        return PART.sub("", file.path.name) != PART.sub("", own.name) and self._busy(file.path)

    def _busy(self, part: Path) -> bool:
        try:
            with self._lock(PART.sub("", part.name), timeout=0):
                return False
        except Timeout:
            return True

    def _warn_no_room(self, wanted: Wanted) -> None:
        self._not_before[wanted.name] = time.monotonic() + ROOM_PAUSE
        if self._said:
            return
        with self._lock("evict"):
            claimed = self._claimed_by_all()
        total = sum(file.size for file in self._files() if file.path.name in claimed)
        self._said = True
        log.warning(
            "the cache %s of %d bytes, or its disk, is smaller than what is read at the same time: "
            "%d shards are in use or next on this node, and the cached ones take %d bytes; others, "
            "such as %s, are read from the server, sample by sample: raise Shards.cache_size, or "
            "lower data.init_args.streams, as each stream reads its own shards",
            *(self.folder, self.limit, max(len(claimed), 1), total, shown(wanted.url)),
        )

    # ------------------------------------------------------------------------------ what is next

    def read_ahead(self, wanted: Sequence[Wanted]) -> None:
        """Download files in the background, and claim them, so that no process removes them.

        Args:
            wanted: The files in use and the next ones, soonest first. Each call replaces the
                previous one.
        """
        if self._pid != os.getpid():
            self._forget()
        names = [one.name for one in wanted]
        if names != self._claimed:
            self._claim(names)
        if self.downloads:
            if self._ahead is None:
                self._ahead = ReadAhead(_fetch_of(weakref.ref(self)), self.downloads)
                _FETCHING.add(self)
            self._ahead.ask(wanted)

    def close(self) -> None:
        """Stop fetching ahead, and release the claims."""
        if self.__dict__.get("_pid") != os.getpid():
            return
        if self._ahead is not None:
            self._ahead.close()
        if self._claims is not None:
            descriptor, path = self._claims
            remove_file(path)
            remove_file(path.with_suffix(".lock"))
            os.close(descriptor)
        self._forget()

    def _claim(self, names: list[str]) -> None:
        if self._claims is None:
            path = self.folder / "claims" / f"{uuid.uuid4().hex}.json"
            with self._lock("evict"):  # so that no process takes it for a dead one's
                flags = os.O_CREAT | os.O_RDWR | os.O_CLOEXEC
                descriptor = os.open(path.with_suffix(".lock"), flags, 0o666)
                # Not a FileLock: a forked worker that drops its copy would unlock it for all.
                fcntl.flock(descriptor, fcntl.LOCK_EX)
            self._claims = (descriptor, path)
        path = self._claims[1]
        fresh = path.with_suffix(".new")
        fresh.write_text(json.dumps(names), encoding="utf-8")
        put_in_place(fresh, path)
        self._claimed = names

    def _claimed_by_all(self) -> set[str]:
        claimed: set[str] = set()
        for lock in (self.folder / "claims").glob("*.lock"):
            if not re.fullmatch("[0-9a-f]{32}", lock.stem):
                continue
            path = lock.with_suffix(".json")
            try:
                with FileLock(lock, timeout=0):  # no process holds it: its owner is dead
                    for left in (path, path.with_suffix(".new"), lock):
                        remove_file(left)
            except Timeout:
                with suppress(OSError, ValueError):
                    claimed.update(json.loads(path.read_text(encoding="utf-8")))
        return claimed


_FETCHING: weakref.WeakSet[DiskCache] = weakref.WeakSet()


@atexit.register
def _stop_fetching() -> None:
    for cache in list(_FETCHING):
        cache.close()


def _fetch_of(
    cache: weakref.ref[DiskCache],
) -> Callable[[Wanted, Callable[[], bool]], bool]:
    """Return the cache's ``fetch`` for threads, without keeping the cache alive."""

    def fetch(wanted: Wanted, stopped: Callable[[], bool]) -> bool:
        alive = cache()
        if alive is None:
            return False
        # A failed download must not stop the following ones.
        kept = alive.fetch(wanted, stopped) is not None
        return kept or alive._not_before.get(wanted.name) == math.inf

    return fetch


def _verify(part: Path, wanted: Wanted) -> None:
    if wanted.checksum is not None:
        found = checksum_of(part)
        if found != wanted.checksum:
            raise WrongContent(f"its checksum is {found}; expected {wanted.checksum}")


def _written(part: Path) -> int:
    return part.stat().st_size if part.exists() else 0
