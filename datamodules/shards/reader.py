"""Read bytes of shards by offset: from open files, from the cache, or from the server."""

from __future__ import annotations

import os
from collections import OrderedDict
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import xxhash

from datamodules.shards.cache import ShardCache
from datamodules.shards.index import Member
from datamodules.shards.remote import RemoteShard, hide_secrets, read_range
from files.images.decode import UnreadableImage

OPEN_FILES = 256  # a quarter of the usual limit of a process


@dataclass(frozen=True)
class Tar:
    """A shard in the state in which it was indexed.

    Args:
        path: Its path or address.
        size: Size in bytes.
        mtime_ns: Time of modification of a local shard.
        remote: The remote shard, if it is one.
    """

    path: str
    size: int
    mtime_ns: int = 0
    remote: RemoteShard | None = None

    @property
    def name(self) -> str:
        """Its name in messages."""
        return self.path if self.remote is None else hide_secrets(self.path)


class Reader:
    """Reads members, and keeps local files open; closes the least recently used file first.

    ``pread`` shares no position, so a forked worker may use its parent's files; and a file that
    shrinks gives an error, whereas a memory map would kill the process. Files of the cache are
    opened each time: an open one would take space on the disk after it was removed.

    Args:
        cache: Cache of the remote shards.
    """

    def __init__(self, cache: ShardCache | None = None) -> None:
        self.cache = cache
        self._open: OrderedDict[str, int] = OrderedDict()

    def __getstate__(self) -> dict[str, Any]:
        # File descriptors are invalid in another process.
        return {"cache": self.cache, "_open": OrderedDict()}

    def __del__(self) -> None:
        self.close()

    def close(self) -> None:
        """Close all files."""
        while self._open:
            os.close(self._open.popitem()[1])

    def read(self, tar: Tar, member: Member, name: str) -> bytes:
        """Return the bytes of a member.

        Args:
            tar: The shard.
            member: Its place.
            name: Its name in messages.

        Raises:
            UnreadableImage: If the bytes differ from the index.
            ValueError: If the shard was replaced.
            RemoteError: If it cannot be downloaded.
        """
        if tar.remote is None:
            data = os.pread(self._descriptor_of(tar), member.size, member.offset)
        else:
            data = self._read_from_cache(tar.remote, member)
            if not _is_intact(data, member):  # there is no room, or the disk damaged it
                data = read_range(tar.remote.url, member.offset, member.size)
        if _is_intact(data, member):
            return data
        raise UnreadableImage(
            f"{name}: {len(data)} of the {member.size} bytes from {member.offset} on came, or "
            "they differ from the index (by their checksum): download or pack the shard again",
            "truncated" if len(data) < member.size else "checksum",
        )

    def _descriptor_of(self, tar: Tar) -> int:
        """Return the descriptor of a local shard, which is opened if it is not.

        Raises:
            ValueError: If it was replaced after it was indexed.
        """
        if tar.path not in self._open:
            state = os.stat(tar.path)
            if (state.st_size, state.st_mtime_ns) != (tar.size, tar.mtime_ns):
                raise ValueError(f"shard {tar.path} was replaced while it was in use: start again")
            if len(self._open) >= OPEN_FILES:
                os.close(self._open.popitem(last=False)[1])
            self._open[tar.path] = os.open(tar.path, os.O_RDONLY | os.O_CLOEXEC)
        self._open.move_to_end(tar.path)
        return self._open[tar.path]

    def _read_from_cache(self, shard: RemoteShard, member: Member) -> bytes:
        """Return the bytes of a member from the cache; none if it has no room for the shard."""
        path = self.cache.fetch(shard) if self.cache else None
        if path is None:
            return b""
        # It is gone if another process needed the room.
        with suppress(FileNotFoundError), path.open("rb") as file:
            return os.pread(file.fileno(), member.size, member.offset)
        return b""


def _is_intact(data: bytes, member: Member) -> bool:
    """Return whether bytes have the size and, if it is known, the checksum of a member."""
    if len(data) != member.size:
        return False
    return not member.checksum or xxhash.xxh3_64_intdigest(data) == member.checksum
