"""Find equal and similar images among any number, in bounded memory.

Records are spread over files by the hash of what must be equal, until each file fits into memory.
Equal images have one digest. Similar ones differ in few bits of their perceptual hashes: 64 bits
are cut into more bands than may differ, so that some bands of a pair are equal, and only hashes
that share these bands are compared. Manku, Jain and Das Sarma, "Detecting near-duplicates for web
crawling" (WWW 2007).
"""

from __future__ import annotations

import heapq
import math
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from degradations.seeds import mix
from files.owned import remove_file

ROOM = 1 << 20  # records in memory
WINDOW = 512  # hashes with equal bands after one that it is compared with
LISTED = 1000  # groups that are listed
SHOWN = 100  # images of a group that are listed
Records = NDArray[Any]
Integers = NDArray[np.int64]
IMAGE = np.dtype([("digest", "<u8", 2), ("phash", "<u8"), ("flat", "?"), ("number", "<i8")])
HASH = np.dtype([("phash", "<u8"), ("number", "<i8")])


class Group(NamedTuple):
    """Images that are equal or similar.

    images: How many.
    numbers: Of the first ``SHOWN``, ascending.
    distance: Most bits in which two of them were found to differ.
    """

    images: int
    numbers: list[int]
    distance: int = 0


class Groups(NamedTuple):
    """All groups of one kind.

    groups: How many.
    images: Images in them.
    largest: The ``LISTED`` largest.
    """

    groups: int
    images: int
    largest: list[Group]

    @classmethod
    def of(cls, found: Iterable[Group]) -> Groups:
        """Count groups, and keep the largest."""
        groups = images = 0

        def counted() -> Iterator[Group]:
            nonlocal groups, images
            for group in found:
                groups, images = groups + 1, images + group.images
                yield group

        largest = heapq.nsmallest(LISTED, counted(), key=lambda g: (-g.images, g.numbers))
        return cls(groups, images, largest)


class Buckets:
    """Records in files, so that those with equal keys are in one file.

    Args:
        folder: Folder of the files.
        kind: Type of the records.
        expected: About how many there will be.
        room: How many may be in memory.
    """

    def __init__(self, folder: Path, kind: np.dtype[Any], expected: int, room: int = ROOM) -> None:
        self.bits = max(0, math.ceil(math.log2(max(1, expected) / room)))
        self.folder = Path(tempfile.mkdtemp(dir=folder))
        self.kind, self.room = kind, room
        self._held: list[tuple[NDArray[np.uint64], Records]] = []
        self._count = 0

    def add(self, keys: NDArray[np.uint64], records: Records) -> None:
        """Add records by their keys."""
        self._held.append((keys, records))
        self._count += len(keys)
        if self._count >= self.room:
            self._flush()

    def _flush(self) -> None:
        if not self._held:
            return
        keys = np.concatenate([keys for keys, _ in self._held])
        records = np.concatenate([records for _, records in self._held])
        self._held, self._count = [], 0
        which = (mix(keys) >> np.uint64(64 - self.bits)).astype(np.int64) if self.bits else keys * 0
        order = np.argsort(which, kind="stable")
        ends = np.searchsorted(which[order], np.arange(1 << self.bits), side="right")
        for number, part in enumerate(np.split(records[order], ends[:-1])):
            if len(part):
                with (self.folder / str(number)).open("ab") as file:
                    file.write(part.tobytes())

    def __iter__(self) -> Iterator[Records]:
        """Yield the records of each file, once."""
        self._flush()
        for number in range(1 << self.bits):
            path = self.folder / str(number)
            if path.exists():
                yield np.fromfile(path, self.kind)
                remove_file(path)


def find_duplicates(
    images: Iterable[Records], count: int, distance: int, folder: Path, room: int = ROOM
) -> tuple[Groups, Groups]:
    """Return the groups of equal images, and those of similar ones, with one image of equal ones.

    Memory is that of ``room`` records, and of the groups of similar images.

    Args:
        images: Of ``IMAGE``, in any pieces.
        count: About how many there are.
        distance: Most bits in which similar images differ.
        folder: A folder for temporary files, which the caller removes.
        room: Records in memory.
    """
    by_digest = Buckets(folder, IMAGE, count, room)
    for records in images:
        by_digest.add(records["digest"][:, 0], records)
    by_hash = Buckets(folder, HASH, count, room)
    equal = Groups.of(_equal(by_digest, by_hash))
    return equal, Groups.of(_similar(by_hash, count, distance, folder, room))


def _equal(by_digest: Buckets, by_hash: Buckets) -> Iterator[Group]:
    for records in by_digest:
        digest = records["digest"]
        records = records[np.lexsort((records["number"], digest[:, 1], digest[:, 0]))]
        digest = records["digest"]
        starts = _starts((digest[1:] != digest[:-1]).any(1))
        counts = np.diff([*starts, len(records)])
        firsts = records[starts]
        firsts = firsts[~firsts["flat"]]
        by_hash.add(firsts["phash"], _hashes(firsts))
        for start, n in zip(starts[counts > 1].tolist(), counts[counts > 1].tolist(), strict=True):
            yield Group(n, records["number"][start : start + min(n, SHOWN)].tolist())


def _similar(
    by_hash: Buckets, count: int, distance: int, folder: Path, room: int
) -> Iterator[Group]:
    groups = _Groups()
    pieces: list[Path] = []
    for records in by_hash:
        records = records[np.lexsort((records["number"], records["phash"]))]
        starts = _starts(records["phash"][1:] != records["phash"][:-1])
        counts = np.diff([*starts, len(records)])
        firsts = records[starts]
        for start, n in zip(starts[counts > 1].tolist(), counts[counts > 1].tolist(), strict=True):
            groups.hold(records["number"][start : start + min(n, SHOWN)].tolist(), n)
        pieces.append(folder / f"hashes-{len(pieces)}")
        firsts.tofile(pieces[-1])
    masks = masks_of(distance, count)
    for mask in masks if distance else []:
        by_band = Buckets(folder, HASH, count, room)
        for piece in pieces:
            firsts = np.fromfile(piece, HASH)
            by_band.add(firsts["phash"] & mask, firsts)
        for records in by_band:
            for pair in _pairs(records, mask, distance):
                groups.join(*pair)
    yield from groups


def masks_of(distance: int, count: int) -> list[np.uint64]:
    """Return masks so that hashes which differ in few bits are equal under one of them.

    There are as many bands that few hashes are equal under a mask by chance.

    Args:
        distance: Most bits that differ.
        count: Number of hashes.
    """
    wanted = math.log2(max(2, count))
    bands = next((m for m in range(distance + 1, 17) if 64 * (m - distance) // m >= wanted), 16)
    ends = [64 * n // bands for n in range(bands + 1)]
    band = [sum(1 << bit for bit in range(ends[n], ends[n + 1])) for n in range(bands)]
    return [np.uint64(sum(some)) for some in combinations(band, bands - distance)]


def _pairs(records: Records, mask: np.uint64, distance: int) -> Iterator[tuple[int, int, int]]:
    """Yield the numbers of images whose hashes differ in few bits, and in how many."""
    keys = records["phash"] & mask
    records = records[np.lexsort((records["phash"], keys))]
    hashes, numbers, keys = records["phash"], records["number"], records["phash"] & mask
    at = np.arange(len(keys))
    for shift in range(1, WINDOW + 1):
        at = at[at + shift < len(keys)]
        at = at[keys[at + shift] == keys[at]]
        if not len(at):
            return
        bits = np.bitwise_count(hashes[at] ^ hashes[at + shift])
        near = bits <= distance
        columns = (numbers[at[near]], numbers[at[near] + shift], bits[near])
        yield from zip(*(column.tolist() for column in columns), strict=True)


def _starts(differs: NDArray[np.bool_]) -> Integers:
    """Return where runs of equal values start, by whether each value differs from the one before.

    Args:
        differs: One less than values; there is at least one value.
    """
    return np.concatenate([np.zeros(1, np.int64), np.flatnonzero(differs) + 1])


def _hashes(images: Records) -> Records:
    found = np.zeros(len(images), HASH)
    found["phash"], found["number"] = images["phash"], images["number"]
    return found


class _Groups:
    """Joins similar images; holds those that are similar to another one."""

    def __init__(self) -> None:
        self._above: dict[int, int] = {}
        self._held: dict[int, tuple[list[int], int]] = {}  # images with one hash, by the first
        self._distance: dict[int, int] = {}

    def hold(self, numbers: Sequence[int], count: int) -> None:
        """Add images with one hash."""
        self._above.setdefault(numbers[0], numbers[0])
        self._held[numbers[0]] = (list(numbers), count)

    def join(self, one: int, other: int, distance: int) -> None:
        """Add two images whose hashes differ in some bits."""
        roots = sorted((self._root(one), self._root(other)))
        self._above[roots[1]] = roots[0]
        most = max(distance, *(self._distance.get(root, 0) for root in roots))
        self._distance[roots[0]] = most

    def _root(self, number: int) -> int:
        above = self._above.setdefault(number, number)
        while above != number:  # halving the way for the next one
            self._above[number] = self._above[above]
            number, above = self._above[number], self._above[self._above[number]]
        return number

    def __iter__(self) -> Iterator[Group]:
        members: dict[int, list[int]] = {}
        for number in sorted(self._above):
            members.setdefault(self._root(number), []).append(number)
        for root, found in members.items():
            held = [self._held.get(number, ([number], 1)) for number in found]
            numbers = sorted(number for some, _ in held for number in some)[:SHOWN]
            yield Group(sum(n for _, n in held), numbers, self._distance.get(root, 0))
