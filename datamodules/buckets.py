"""Sort any number of records in bounded memory: spread them over buckets in a file on the disk."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from degradations.seeds import mix

ROOM = 1 << 20  # records in memory
Records = NDArray[Any]
Keys = NDArray[np.uint64]


class Buckets:
    """Records by their keys: those with equal keys are in one bucket, which fits into memory.

    The file has no name, so that nothing is left of a killed process.

    Args:
        folder: Folder of the file.
        kind: Type of the records.
        expected: About how many records there will be.
        room: How many may be in memory.
        top: Keys are below it, and buckets are in their order; None spreads keys by their hash.
    """

    def __init__(
        self,
        folder: Path,
        kind: np.dtype[Any],
        expected: int,
        room: int = ROOM,
        top: int | None = None,
    ) -> None:
        self.kind, self.room, self.top = kind, room, top
        self.bits = max(0, math.ceil(math.log2(max(1, expected) / room)))
        self._file: Any = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115  (closed with this)
        self._ends: list[NDArray[np.int64]] = []  # of the buckets in each piece of the file
        self._held: list[tuple[Keys, Records]] = []
        self._count = 0

    def add(self, keys: Keys, records: Records) -> None:
        """Add records by their keys.

        Raises:
            OSError: If the disk is full.
        """
        self._held.append((keys, records))
        self._count += len(keys)
        if self._count >= self.room:
            self._flush()

    def _flush(self) -> None:
        if not self._count:
            return
        keys = np.concatenate([keys for keys, _ in self._held])
        records = np.concatenate([records for _, records in self._held])
        self._held, self._count = [], 0
        which = self._bucket(keys)
        order = np.argsort(which, kind="stable")
        ends = np.searchsorted(which[order], np.arange(1 << self.bits), side="right")
        first = self._ends[-1][-1] if self._ends else 0
        self._ends.append(first + np.concatenate([[0], ends]))
        self._file.seek(0, 2)
        self._file.write(records[order].tobytes())

    def _bucket(self, keys: Keys) -> NDArray[np.int64]:
        if self.top is not None:
            width = -(-max(1, self.top) >> self.bits)
            return (keys // np.uint64(max(1, width))).astype(np.int64)
        if not self.bits:
            return np.zeros(len(keys), np.int64)
        return (mix(keys) >> np.uint64(64 - self.bits)).astype(np.int64)

    def __iter__(self) -> Iterator[Records]:
        """Yield the records of each bucket that is not empty, in the order they were added."""
        self._flush()
        for bucket in range(1 << self.bits):
            pieces = []
            for ends in self._ends:
                start, stop = (int(end) for end in ends[bucket : bucket + 2])
                self._file.seek(start * self.kind.itemsize)
                pieces.append(self._file.read((stop - start) * self.kind.itemsize))
            if records := b"".join(pieces):
                yield np.frombuffer(records, self.kind)


def starts_of_runs(differs: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Return where runs of equal values start.

    Args:
        differs: (n - 1,), whether each value but the first differs from the one before; n is 1 or
            more.

    Returns:
        (runs,) int64, the numbers of the values, from 0.
    """
    return np.concatenate([np.zeros(1, np.int64), np.flatnonzero(differs) + 1])
