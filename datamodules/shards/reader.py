"""Read bytes of shards by offset: from open files, from the cache, or from the server."""

from __future__ import annotations

import os
import resource
import time
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

import xxhash

from datamodules.shards.cache import DiskCache, Wanted
from datamodules.shards.remote import RemoteError, read_range, shown

MOST_FILES = 1 << 16
LOOK_PAUSE = 5.0  # seconds between checks for open files that the cache has removed


@dataclass(frozen=True)
class Tar:
    """A shard in the state in which it was indexed.

    Args:
        path: Its path, or the address of ``wanted``.
        size: Size in bytes.
        mtime_ns: Time of modification of a local shard.
        wanted: The file for the cache, if the shard is remote.
    """

    path: str
    size: int
    mtime_ns: int = 0
    wanted: Wanted | None = None

    @property
    def name(self) -> str:
        """Its name in messages."""
        return self.path if self.wanted is None else shown(self.path)


class WrongBytes(ValueError):  # noqa: N818  (names the state)
    """The bytes of a member differ from the index.

    Args:
        message: The problem.
        reason: ``checksum`` or ``truncated``.
    """

    def __init__(self, message: str, reason: str) -> None:
        super().__init__(message)
        self.reason = reason


def most_open_files() -> int:
    """Return how many shards a reader may keep open: half of the system's limit per process."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return MOST_FILES if soft == resource.RLIM_INFINITY else min(max(soft // 2, 8), MOST_FILES)


class Reader:
    """Reads members, and keeps files open; closes the least recently used file first.

    ``pread`` shares no position, so a forked worker may use its parent's files; and a file that
    shrinks gives an error, whereas a memory map would kill the process.

    Args:
        cache: Cache of the remote shards.
    """

    def __init__(self, cache: DiskCache | None = None) -> None:
        self.cache = cache
        self._open: OrderedDict[str, int] = OrderedDict()
        self._of_cache: set[str] = set()  # files of the cache among them
        self._looked = 0.0  # time of the last check for removed files

    def __getstate__(self) -> dict[str, Any]:
        # File descriptors are invalid in another process.
        return {"cache": self.cache, "_open": OrderedDict(), "_of_cache": set(), "_looked": 0.0}

    def __del__(self) -> None:
        self.close()

    def close(self) -> None:
        """Close all files."""
        while self._open:
            os.close(self._open.popitem()[1])

    def read(self, tar: Tar, offset: int, size: int, checksum: int = 0) -> bytes:
        """Return the bytes of a member.

        Args:
            tar: The shard.
            offset: Offset of the first byte.
            size: Number of bytes.
            checksum: xxh3_64 of the bytes; 0 if unknown.

        Raises:
            WrongBytes: If the bytes differ from the index.
            ValueError: If the shard was replaced, truncated or removed.
            RemoteError: If it cannot be downloaded.
        """
        # A worker may read from open shards for a whole window, while the cache removes others.
        if self._of_cache and time.monotonic() - self._looked >= LOOK_PAUSE:
            self._close_removed()
        descriptor = self._open.get(tar.path)
        if descriptor is None:
            descriptor = self._opened(tar)
            if descriptor is None:
                return self._from_server(tar, offset, size, checksum)
        self._open.move_to_end(tar.path)
        data = os.pread(descriptor, size, offset)
        if len(data) == size and not (checksum and xxhash.xxh3_64_intdigest(data) != checksum):
            return data
        return self._explained(tar, descriptor, (offset, size, checksum), len(data))

    def _explained(
        self, tar: Tar, descriptor: int, member: tuple[int, int, int], count: int
    ) -> bytes:
        """Read from the server what the disk has damaged; else raise an error with the cause."""
        if tar.wanted is None:
            if count != member[1]:
                raise ValueError(f"shard {tar.path} was truncated while it was in use: start again")
            _check_same(tar, os.fstat(descriptor))
            raise WrongBytes(_differs(member), "checksum")
        return self._from_server(tar, *member)

    def _from_server(self, tar: Tar, offset: int, size: int, checksum: int) -> bytes:
        if tar.wanted is None or self.cache is None:
            raise ValueError(f"shard {tar.name} cannot be opened")
        try:
            data = read_range(tar.wanted.url, offset, size, self.cache.policy)
        except RemoteError as error:
            if error.kind != "content":
                raise
            raise WrongBytes(str(error), "truncated") from error
        if checksum and xxhash.xxh3_64_intdigest(data) != checksum:
            raise WrongBytes(_differs((offset, size, checksum)), "checksum")
        return data

    def _opened(self, tar: Tar) -> int | None:
        """Return a descriptor of the shard; None if it is not on this host."""
        descriptor = self._local(tar) if tar.wanted is None else self._cached(tar.wanted)
        if descriptor is None:
            return None
        try:
            state = os.fstat(descriptor)
            if tar.wanted is None:
                _check_same(tar, state)
        except BaseException:
            os.close(descriptor)
            raise
        if len(self._open) >= most_open_files():
            os.close(self._open.popitem(last=False)[1])
        self._open[tar.path] = descriptor
        if tar.wanted is not None:
            self._of_cache.add(tar.path)
        return descriptor

    def _close_removed(self) -> None:
        """Close files that the cache has removed, as open files still take space on the disk."""
        self._looked = time.monotonic()
        self._of_cache &= self._open.keys()
        for path in list(self._of_cache):
            if not os.fstat(self._open[path]).st_nlink:
                os.close(self._open.pop(path))

    def _local(self, tar: Tar) -> int:
        try:
            return _descriptor(tar.path)
        except FileNotFoundError as error:
            raise ValueError(
                f"shard {tar.path} was removed while it was in use: restore it, and start again"
            ) from error

    def _cached(self, wanted: Wanted) -> int | None:
        self._close_removed()
        while self.cache is not None and (path := self.cache.fetch(wanted)) is not None:
            try:
                return _descriptor(str(path))
            except FileNotFoundError:  # another process needed the room
                continue
        return None


def _descriptor(path: str) -> int:
    return os.open(path, os.O_RDONLY | os.O_CLOEXEC)


def _check_same(tar: Tar, state: os.stat_result) -> None:
    if (state.st_size, state.st_mtime_ns) != (tar.size, tar.mtime_ns):
        raise ValueError(f"shard {tar.path} was replaced while it was in use: start again")


def _differs(member: tuple[int, int, int]) -> str:
    return (
        f"the {member[1]} bytes from {member[0]} on differ from the index (by their checksum): "
        "download or pack the shard again"
    )
