"""Remote shards on the node's disk: shared by its processes, limited in size, checked.

A folder holds whole files under their names, ``*.part`` files of downloads (the expected size is in
the name, so that others leave room for them; a download that was killed is continued), and in
``locks`` and ``claims`` what the processes tell each other. A lock is held by the kernel for a
process: it ends with it, however it ends.
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
import time
import uuid
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from filelock import FileLock, Timeout

from datamodules.read_ahead import ReadAhead
from datamodules.remote import download
from datamodules.retry import FULL, Attempts, Patience, RemoteError, WrongContent, shown
from datamodules.shard_index import checksum_of
from files.owned import put_in_place, remove_file

log = logging.getLogger(__name__)

PART = re.compile(r"\.(\d+)\.part$")
OLD_PART = 24 * 3600.0  # seconds: nobody comes back for it
FULL_PAUSE = 60.0  # seconds during which a full disk is not tried again
ROOM_PAUSE = 2.0  # seconds during which a file that had no room is not tried again


class Wanted(NamedTuple):
    """A remote file.

    Args:
        url: Where it is.
        version: What the server said about its version; another version is another file.
        size: Its bytes, where they are known.
        checksum: xxh3_128 of them in hexadecimal, where it is known.
    """

    url: str
    version: str = ""
    size: int | None = None
    checksum: str | None = None

    @property
    def name(self) -> str:
        """Its name in the cache."""
        digest = hashlib.blake2b(f"{self.url}\n{self.version}".encode(), digest_size=8).hexdigest()
        file = re.sub(r"[^\w.-]", "_", shown(self.url).rpartition("/")[2])[-80:]
        return f"{digest}-{file}"


class _File(NamedTuple):
    used: float  # when, in seconds
    size: int
    path: Path
    part: bool


class DiskCache:
    """Files of one folder that never take more than a given size.

    Args:
        folder: Where they are; made if it is not there.
        limit: Bytes that they may take, together.
        patience: How long to try to get one.
        downloads: How many files are fetched ahead at a time; 0 for none.
    """

    def __init__(self, folder: Path, limit: int, patience: Patience, downloads: int = 2) -> None:
        self.folder, self.limit, self.patience, self.downloads = folder, limit, patience, downloads
        for place in (folder, folder / "locks", folder / "claims"):
            place.mkdir(parents=True, exist_ok=True)
        self._forget()
        with self._lock("evict"):
            for file in self._files():
                if file.part and time.time() - file.used > OLD_PART and not self._busy(file.path):
                    remove_file(file.path)

    def _forget(self) -> None:
        """Begin as a process that has claimed nothing and fetches nothing ahead."""
        self._pid = os.getpid()
        self._ahead: ReadAhead[Wanted] | None = None
        self._claims: tuple[int, Path] | None = None  # descriptor that is locked, its list
        self._claimed: list[str] = []
        self._full_until = 0.0
        self._not_before: dict[str, float] = {}  # files that had no room, and when to try again
        self._said: set[str] = set()

    def __getstate__(self) -> dict[str, Any]:
        keep = ("folder", "limit", "patience", "downloads")
        return {name: getattr(self, name) for name in keep}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._forget()

    def __del__(self) -> None:
        with suppress(Exception):  # at exit, modules may be gone
            self.close()

    # ------------------------------------------------------------------------------------- fetch

    def fetch(self, wanted: Wanted, stopped: Callable[[], bool] = lambda: False) -> Path | None:
        """The file on this disk, fetched if it is not there.

        Args:
            wanted: Which one.
            stopped: Asked while it is fetched; None is returned soon after it says so.

        Returns:
            None if the file cannot be kept: there is no room, or the server gives another content
            than that which was indexed. What is wanted of it is then to be read from the server.

        Raises:
            RemoteError: It cannot be got.
        """
        path = self.folder / wanted.name
        if self._there(path, wanted):
            return path
        # Otherwise each sample would wait for the locks and look through the folder.
        if time.monotonic() < max(self._full_until, self._not_before.get(wanted.name, 0.0)):
            return None
        with self._lock(wanted.name):
            if self._there(path, wanted):  # another process was quicker
                return path
            return path if self._get(wanted, path, stopped) else None

    def drop(self, wanted: Wanted) -> None:
        """Remove a file that turned out to be damaged on the disk."""
        with self._lock(wanted.name):
            remove_file(self.folder / wanted.name)

    def _there(self, path: Path, wanted: Wanted) -> bool:
        try:
            state = path.stat()
            if wanted.size is not None and state.st_size != wanted.size:
                return False
            os.utime(path)  # it was used
        except FileNotFoundError:
            return False
        return True

    def _get(self, wanted: Wanted, path: Path, stopped: Callable[[], bool]) -> bool:
        part = path.with_name(f"{path.name}.{wanted.size or 0}.part")
        unknown = wanted.size is None
        if not self._make_room(wanted.size or 0, part, anyway=unknown):
            self._no_room(wanted)
            return False
        attempts = Attempts(wanted.url, self.patience)
        while not stopped():
            try:
                download(wanted.url, part, wanted.size, self.patience, stopped)
                if stopped():
                    break
                _verify(part, wanted)
                if unknown:  # until now: nothing was reserved for it
                    self._make_room(_written(part), part, anyway=True)
                put_in_place(part, path)
                return True
            except WrongContent as error:
                remove_file(part)
                if not self._go_on(attempts, error, wanted):
                    return False
            except RemoteError as error:
                if error.kind != "content" or wanted.size is None:
                    if not _written(part):
                        remove_file(part)
                    raise
                remove_file(part)
                self._give_up(wanted, error)
                return False
            except OSError as error:
                if error.errno not in FULL:
                    raise
                if not self._make_room(_missing(part, wanted), part, full=True):
                    remove_file(part)
                    self._disk_is_full(wanted)
                    return False
        return False

    def _go_on(self, attempts: Attempts, error: WrongContent, wanted: Wanted) -> bool:
        try:
            attempts.failed(error)
        except RemoteError as last:
            self._give_up(wanted, last)
            return False
        return True

    def _give_up(self, wanted: Wanted, error: RemoteError) -> None:
        self._not_before[wanted.name] = math.inf
        log.warning(
            "%s is not the file that was indexed; its samples are read one by one, and those whose "
            "bytes differ are counted as broken: %s",
            shown(wanted.url),
            error,
        )

    # -------------------------------------------------------------------------------------- room

    def _make_room(self, needed: int, part: Path, full: bool = False, anyway: bool = False) -> bool:
        """Remove what was not used for longest until ``needed`` bytes are free; reserve ``part``.

        Args:
            needed: Bytes.
            part: The file that they are for.
            full: The disk was found to be full, whatever the limit says.
            anyway: Remove what can be, and go on, even if that is not enough.
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
            if over > 0 and not anyway:
                return False
            for path in chosen:
                remove_file(path)  # who has it open reads on
            part.touch()
        return True

    def _files(self) -> Iterator[_File]:
        locks = set(os.listdir(self.folder / "locks"))
        for entry in os.scandir(self.folder):
            with suppress(FileNotFoundError):
                # Each file was fetched under a lock, which stays: others in the folder have none.
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
        # We hold the lock of another size's part of our own file.
        return PART.sub("", file.path.name) != PART.sub("", own.name) and self._busy(file.path)

    def _busy(self, part: Path) -> bool:
        try:
            with self._lock(PART.sub("", part.name), timeout=0):
                return False
        except Timeout:
            return True

    def _no_room(self, wanted: Wanted) -> None:
        self._not_before[wanted.name] = time.monotonic() + ROOM_PAUSE
        with self._lock("evict"):
            claimed = self._claimed_by_all()
        total = sum(file.size for file in self._files() if file.path.name in claimed)
        self._say_once(
            "room",
            f"the cache {self.folder} of {self.limit} bytes is smaller than what is read at the "
            f"same time: {max(len(claimed), 1)} shards are in use or next on this node, and those "
            f"that are here take {total} bytes; {shown(wanted.url)} and others are read from the "
            "server, sample by sample: raise Shards.cache_size, or lower data.init_args.streams: "
            "each stream reads in shards of its own",
        )

    def _disk_is_full(self, wanted: Wanted) -> None:
        self._full_until = time.monotonic() + FULL_PAUSE
        self._say_once(
            "full",
            f"the disk of {self.folder} is full, and nothing of the cache can be removed: "
            f"{shown(wanted.url)} and others are read from the server, sample by sample; free "
            "some space, or put Shards.cache_dir on another disk",
        )

    def _say_once(self, what: str, message: str) -> None:
        if what not in self._said:
            self._said.add(what)
            log.warning(message)

    # ------------------------------------------------------------------------------ what is next

    def read_ahead(self, wanted: Sequence[Wanted]) -> None:
        """Fetch files in the background, and keep them: the cache's other users leave them there.

        Args:
            wanted: Those in use and those that are next, soonest first; each call replaces the one
                before it.
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
        """Stop fetching ahead, and give up what was claimed."""
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
            with self._lock("evict"):  # nobody is to take it for a dead one's meanwhile
                flags = os.O_CREAT | os.O_RDWR | os.O_CLOEXEC
                descriptor = os.open(path.with_suffix(".lock"), flags, 0o666)
                # Not a FileLock: a forked worker that forgets its copy would unlock it for all.
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
                with FileLock(lock, timeout=0):  # nobody holds it: its process is dead
                    remove_file(path)
                    remove_file(lock)
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
    """Its ``fetch``, for threads, which would otherwise keep the cache alive for ever."""

    def fetch(wanted: Wanted, stopped: Callable[[], bool]) -> bool:
        alive = cache()
        if alive is None:
            return False
        # What was given up is not to keep those that come after it from being fetched.
        kept = alive.fetch(wanted, stopped) is not None
        return kept or alive._not_before.get(wanted.name) == math.inf

    return fetch


def _verify(part: Path, wanted: Wanted) -> None:
    if wanted.checksum is not None:
        found = checksum_of(part)
        if found != wanted.checksum:
            raise WrongContent(f"its checksum is {found}, and should be {wanted.checksum}")


def _written(part: Path) -> int:
    return part.stat().st_size if part.exists() else 0


def _missing(part: Path, wanted: Wanted) -> int:
    return max((wanted.size or 0) - _written(part), 1)
