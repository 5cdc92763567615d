"""Find equal images among any number of inputs, in bounded memory."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np

from datamodules.buckets import ROOM, Buckets, starts_of_runs

PIECE = 1 << 12  # hashes that are parsed at once
HASHED = np.dtype([("image", "<u8", 2), ("number", "<u8"), ("caption", "<u8")])
FOUND = np.dtype([("number", "<u8"), ("first", "<u8"), ("differs", "?")])


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


def find_duplicates(
    hashes: Iterable[tuple[int, str]], count: int, folder: Path, room: int = ROOM
) -> Iterator[Duplicate]:
    """Yield all inputs that equal an earlier one, by their numbers.

    Args:
        hashes: Number and hash of each input, in any order.
        count: Number of all inputs.
        folder: Folder for files while this runs; they need 50 bytes for each input.
        room: Inputs in memory, at most.

    Raises:
        OSError: If the disk is full.
    """
    hashed = Buckets(folder, HASHED, count, room)
    source = iter(hashes)
    while piece := [_record(*one) for one in islice(source, PIECE)]:
        records = np.array(piece, HASHED)
        hashed.add(records["image"][:, 0], records)
    found = Buckets(folder, FOUND, count, room, top=count)
    for records in hashed:
        image = records["image"]
        records = records[np.lexsort((records["number"], image[:, 1], image[:, 0]))]
        image = records["image"]
        starts = starts_of_runs((image[1:] != image[:-1]).any(1))
        first = records[np.repeat(starts, np.diff([*starts, len(records)]))]
        later = first["number"] != records["number"]
        some = np.zeros(later.sum(), FOUND)
        some["number"], some["first"] = records["number"][later], first["number"][later]
        some["differs"] = (first["caption"] != records["caption"])[later]
        found.add(some["number"], some)
    for records in found:
        yield from (Duplicate(*record) for record in np.sort(records, order="number").tolist())


def _record(number: int, digest: str) -> tuple[tuple[int, int], int, int]:
    image, _, caption = digest.partition(":")
    return (int(image[:16], 16), int(image[16:], 16)), number, int(caption or "0", 16)
