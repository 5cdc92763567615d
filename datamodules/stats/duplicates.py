"""Find equal and similar images among any number, in bounded memory.

Records are spread over buckets by the hash of what must be equal, so that each fits into memory.
Equal images have one digest. Similar ones differ in few bits of their perceptual hashes: 64 bits
are cut into more bands than may differ, so that some bands of a pair are equal, and only hashes
that share these bands are compared. Manku, Jain and Das Sarma, "Detecting near-duplicates for web
crawling" (WWW 2007).
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterable, Iterator, Sequence
from itertools import combinations
from pathlib import Path
from typing import NamedTuple

import numpy as np

from datamodules.buckets import ROOM, Buckets, Records, starts_of_runs

WINDOW = 512  # hashes with equal bands after one that it is compared with
LISTED = 1000  # groups that are listed
SHOWN = 100  # images of a group that are listed
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


def find_duplicates(
    images: Iterable[Records], count: int, distance: int, folder: Path, room: int = ROOM
) -> tuple[Groups, Groups]:
    """Return the groups of equal images, and those of similar ones, with one image of equal ones.

    Memory is that of ``room`` records, and of the groups of similar images.

    Args:
        images: Of ``IMAGE``, in any pieces.
        count: About how many there are.
        distance: Most bits in which similar images differ.
        folder: A folder for temporary files, which have no names.
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
        starts = starts_of_runs((digest[1:] != digest[:-1]).any(1))
        counts = np.diff([*starts, len(records)])
        firsts = records[starts]
        firsts = firsts[~firsts["flat"]]
        by_hash.add(firsts["phash"], _hashes(firsts))
        for start, n in zip(starts[counts > 1].tolist(), counts[counts > 1].tolist(), strict=True):
            yield Group(n, records["number"][start : start + min(n, SHOWN)].tolist())


def _similar(
    by_hash: Buckets, count: int, distance: int, folder: Path, room: int
) -> Iterator[Group]:
    groups, hashes = _Groups(), Buckets(folder, HASH, count, room)
    for records in by_hash:
        records = records[np.lexsort((records["number"], records["phash"]))]
        starts = starts_of_runs(records["phash"][1:] != records["phash"][:-1])
        counts = np.diff([*starts, len(records)])
        firsts = records[starts]
        for start, n in zip(starts[counts > 1].tolist(), counts[counts > 1].tolist(), strict=True):
            groups.hold(records["number"][start : start + min(n, SHOWN)].tolist(), n)
        hashes.add(firsts["phash"], firsts)
    for mask in masks_of(distance, count) if distance else []:
        by_band = Buckets(folder, HASH, count, room)
        for firsts in hashes:
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
