"""Find equal images among any number of inputs, in little memory: by sorting on the disk."""

from __future__ import annotations

import heapq
import struct
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import IO, Any, NamedTuple

RUN = 500_000  # records that are sorted in memory
MERGED = 64  # files that are merged at once
CHUNK = 1 << 16  # bytes that are read of each, about
# Big-endian, so that bytes sort as numbers do.
HASHED = struct.Struct(">16sQ8s")  # hash of the images, number, hash of the caption
FOUND = struct.Struct(">QQ?")  # number, first number, whether captions differ


class Duplicate(NamedTuple):
    """An input whose images equal those of an earlier one.

    Attributes:
        number: The input.
        first: The first input with these images.
        differs: Whether that one has another caption.
    """

    number: int
    first: int
    differs: bool


class Sorter:
    """Sort records of one size by their bytes, in files without names.

    Args:
        size: Bytes of a record.
        folder: Folder of the files.
        run: Records in memory, at most.
    """

    def __init__(self, size: int, folder: Path, run: int = RUN) -> None:
        self.size, self.folder, self.run = size, folder, run
        self._open = ExitStack()
        self._records: list[bytes] = []
        self._files: list[IO[bytes]] = []

    def __enter__(self) -> Sorter:
        """Itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Delete the files."""
        self._open.close()

    def add(self, record: bytes) -> None:
        """Add a record.

        Raises:
            OSError: If the disk is full.
        """
        self._records.append(record)
        if len(self._records) >= self.run:
            self._records.sort()
            self._write(self._records)
            self._records = []

    def __iter__(self) -> Iterator[bytes]:
        """Iterate over all records in order."""
        while len(self._files) > MERGED:
            some, self._files = self._files[:MERGED], self._files[MERGED:]
            self._write(heapq.merge(*map(self._read, some)))
            for file in some:
                file.close()
        yield from heapq.merge(sorted(self._records), *map(self._read, self._files))

    def _write(self, records: Iterable[bytes]) -> None:
        file: Any = tempfile.TemporaryFile(dir=self.folder)  # noqa: SIM115  (closed by the stack)
        self._files.append(self._open.enter_context(file))
        file.writelines(records)

    def _read(self, file: IO[bytes]) -> Iterator[bytes]:
        file.seek(0)
        while chunk := file.read(self.size * (CHUNK // self.size)):
            for start in range(0, len(chunk), self.size):
                yield chunk[start : start + self.size]


def find_duplicates(
    hashes: Iterable[tuple[int, str]], folder: Path, run: int = RUN
) -> Iterator[Duplicate]:
    """Yield all inputs that equal an earlier one, by their numbers.

    Args:
        hashes: Number and hash of each input, in any order.
        folder: Folder for files while this runs; they need 50 bytes for each input.
        run: Inputs in memory, at most.

    Raises:
        OSError: If the disk is full.
    """
    with Sorter(FOUND.size, folder, run) as found:
        with Sorter(HASHED.size, folder, run) as hashed:
            for number, digest in hashes:
                image, _, caption = digest.partition(":")
                caption_bytes = bytes.fromhex(caption)
                hashed.add(HASHED.pack(bytes.fromhex(image), number, caption_bytes))
            records = (HASHED.unpack(record) for record in hashed)
            image_before, first, caption_before = b"", 0, b""
            for image_bytes, number, caption_bytes in records:
                if image_bytes == image_before:
                    found.add(FOUND.pack(number, first, caption_bytes != caption_before))
                else:
                    image_before, first, caption_before = image_bytes, number, caption_bytes
        yield from (Duplicate(*FOUND.unpack(record)) for record in found)
