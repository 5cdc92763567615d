"""Write WebDataset tars; a tar gets its name only when it is complete."""

from __future__ import annotations

import contextlib
import os
import re
from pathlib import Path
from typing import IO, TYPE_CHECKING, NamedTuple

from datamodules.shards.index import BLOCK, build_index, index_places, save_index
from files.owned import put_in_place, remove_file, sync_folder

if TYPE_CHECKING:
    from webdataset import TarWriter

Members = dict[str, bytes]  # suffix: content


class Shard(NamedTuple):
    """A complete shard.

    name: Name of its file.
    bytes: Its size.
    samples: Number of samples in it.
    checksum: Hexadecimal xxh3_128 of the file.
    """

    name: str
    bytes: int
    samples: int
    checksum: str


class ShardWriter:
    """Write samples into ``NAME-000000.tar`` and so on, each with its index.

    A shard is written as ``*.tar.part``. When it is full, it is synced to the disk, read back for
    its index, and renamed. The same samples give the same bytes; webdataset sorts the members of
    a sample by suffix.

    Args:
        out: An existing folder.
        name: Prefix of the shards' names.
        most: Maximum number of samples in a shard.
        size: Maximum bytes of a shard; a single larger sample gets a shard of its own.
    """

    def __init__(self, out: Path, name: str, most: int, size: int | None = None) -> None:
        self.out, self.name, self.most, self.size = out, name, most, size
        self.shards: list[Shard] = []  # those that are complete
        self.samples = 0  # in the current one
        self._bytes = 0
        self._file: IO[bytes] | None = None
        self._tar: TarWriter | None = None

    @property
    def path(self) -> Path:
        """Final path of the current shard."""
        return self.out / f"{self.name}-{len(self.shards):06d}.tar"

    def _has_room(self, members: Members) -> bool:
        if self.samples == 0:
            return True
        return self.samples < self.most and (
            self.size is None or self._bytes + _bytes_of(members) <= self.size
        )

    def add(self, key: str, members: Members) -> None:
        """Write a sample, to the next shard if this one is full.

        Args:
            key: Its key, without dots after the last slash.
            members: Its members by suffix.

        Raises:
            OSError: If it cannot be written.
        """
        if not self._has_room(members):
            self.finish()
        if self._tar is None:
            from webdataset import TarWriter  # imports torch, which takes seconds

            self._file = self._part.open("wb")
            # No time and no owner, so that the same samples give the same bytes.
            fixed = {"user": "", "group": "", "mode": 0o444, "mtime": 0}
            self._tar = TarWriter(self._file, encoder=False, keep_meta=True, **fixed)
        self._tar.write({"__key__": key, **members})
        self.samples += 1
        self._bytes += _bytes_of(members)

    def finish(self) -> None:
        """Complete the shard, rename it, and begin the next one, if there are samples in it.

        Raises:
            OSError: If it cannot be written.
        """
        if self._tar is None or self._file is None:
            return
        self._tar.close()
        self._file.flush()
        os.fsync(self._file.fileno())  # the name must not be on disk before the content is
        self._file.close()
        path = self.path
        # The index first: without its shard, it is never read.
        place = index_places(path, path)[0]
        index = build_index(self._part, examine=True)
        save_index(index, place)
        put_in_place(self._part, path)
        sync_folder(self.out)
        self.shards.append(Shard(path.name, index.size, self.samples, index.checksum or ""))
        self._tar = self._file = None
        self.samples = self._bytes = 0

    def abandon(self) -> None:
        """Delete the unfinished shard."""
        # Closing fails again if a write has failed.
        if self._tar is not None:
            with contextlib.suppress(OSError):
                self._tar.close()
        if self._file is not None:
            with contextlib.suppress(OSError):
                self._file.close()
        self._tar = self._file = None
        remove_file(self._part)

    @property
    def _part(self) -> Path:
        return self.path.with_name(f"{self.path.name}.part")


def _bytes_of(members: Members) -> int:
    return sum(BLOCK + -(-len(data) // BLOCK) * BLOCK for data in members.values())


def find_shards(out: Path, name: str, parts: bool = False) -> list[Path]:
    """Return the shards of a name in a folder.

    Args:
        out: The folder.
        name: Prefix of their names.
        parts: Also return their indices, and what a killed writer left.
    """
    more = r"(\.part|\.idx\.json)?" if parts else ""
    pattern = re.compile(rf"{re.escape(name)}-\d{{6,}}\.tar{more}")
    return sorted(path for path in out.glob("*") if pattern.fullmatch(path.name))
