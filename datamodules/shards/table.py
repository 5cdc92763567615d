"""Places of all samples of a set, in a few arrays that forked processes share.

A sample of one image takes 24 bytes beside its key; see ``Column``. The arrays of a large set are
kept in one file, as reading a thousand indices takes seconds. A very large file is mapped, so that
the processes of a host share its pages.
"""

from __future__ import annotations

import json
import logging
import os
import re
import struct
import zipfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from datamodules.files.roles import EXPECTED, FIELDS, SUFFIXES, roles_of
from datamodules.order.keys import Names
from datamodules.shards.index import Member, ShardIndex
from files.owned import remove_file, whole_file

log = logging.getLogger(__name__)
RULE = "a key ends at the first dot of the file name"
VERSION = 4  # of the file; until 3, members of one role were dropped
LISTS = ("counts", "sizes", "checksums", "notes")
KEPT = 16  # files of tables in a folder
MAPPED = 1 << 28  # bytes of a file that is mapped; below, its checksums are verified
OWN_NAME = re.compile(r"[0-9a-f]{32}\.table\.npz")  # the names that `Shards` gives them


@dataclass(frozen=True)
class Column:
    """One field of all samples.

    Args:
        offsets: (n,) int64, first byte in the shard; 0 if a sample lacks the field.
        sizes: (n,) uint32, number of bytes.
        checksums: (n,) uint64, xxh3_64 of the bytes, 0 if unknown; None if all are unknown.
    """

    offsets: NDArray[np.int64]
    sizes: NDArray[np.uint32]
    checksums: NDArray[np.uint64] | None

    @property
    def arrays(self) -> dict[str, NDArray[Any]]:
        """Return the arrays by name."""
        named: dict[str, NDArray[Any] | None] = {
            "offsets": self.offsets,
            "sizes": self.sizes,
            "checksums": self.checksums,
        }
        return {name: array for name, array in named.items() if array is not None}


@dataclass(frozen=True)
class Table:
    """The samples of some shards, in order.

    Args:
        keys: (n) names of the samples.
        counts: Number of samples of each shard.
        sizes: Size of each shard in bytes.
        checksums: Hexadecimal xxh3_128 of each shard, if known.
        columns: Columns by field of ``FIELDS``, for fields that some sample has.
        sides: (n, 2) unsigned integers: height and width of the upright HR image, 0 if unknown;
            None if all are unknown.
        notes: Warnings about skipped samples, logged at every start.
    """

    keys: Names
    counts: list[int]
    sizes: list[int]
    checksums: list[str | None]
    columns: dict[str, Column]
    sides: NDArray[np.unsignedinteger] | None
    notes: list[str]

    def lacking(self, field: str) -> NDArray[np.intp]:
        """Return the numbers of the samples without a field that others have."""
        column = self.columns.get(field)
        return np.flatnonzero([] if column is None else column.offsets == 0)

    def check_lr(self, name: str) -> None:
        """Raise if only some samples have an LR.

        Args:
            name: Where the samples are from.
        """
        if len(absent := self.lacking("lr")):
            raise ValueError(
                f"{name}: {len(absent)} of {len(self.keys)} samples have no lr.<ext>, such as "
                f"{self.keys[int(absent[0])]!r}; all must have one, or none"
            )

    @property
    def nbytes(self) -> int:
        """Memory of the arrays in bytes."""
        columns = sum(a.nbytes for column in self.columns.values() for a in column.arrays.values())
        return self.keys.nbytes + columns + (0 if self.sides is None else self.sides.nbytes)


def table_of(shard: str, index: ShardIndex, prefix: str = "", needed: str = "hr") -> Table:
    """Return the samples of one shard that have an image; the notes count what is left out.

    Args:
        shard: Its path or address, for messages.
        index: Its index.
        prefix: Prefix of every key.
        needed: The field that a sample must have: ``hr``, or ``latent`` instead of an image.

    Raises:
        ValueError: If no sample has it, or the roles of one are not clear.
    """
    keys, samples, others, unused = [], [], [], []
    for key, members in zip(index.keys, index.members, strict=True):
        try:
            roles = roles_of(tuple(members))
        except ValueError as error:
            raise ValueError(f"shard {shard}: {key!r}: {error}") from error
        if needed in roles.members:
            keys.append(prefix + key)
            samples.append({field: members[suffix] for field, suffix in roles.members.items()})
        else:
            others.append(f"{key!r} with {', '.join(members)}")
        unused += [f"{key}.{suffix}" for suffix in roles.unused]
    if not samples and needed == "latent":
        raise ValueError(f"shard {shard} has no latents: main.py encode writes shards with them")
    if not samples:
        raise ValueError(
            f"shard {shard}: none of its {len(others)} samples has an image (the first is "
            f"{others[0]}); expected a member hr.<ext> or <ext>, with an extension out of "
            f"{', '.join(sorted(SUFFIXES))} ({RULE})"
        )
    notes = []
    if others:
        notes.append(
            f"{shard}: left out {len(others)} samples without an image: {others[:3]} ({RULE})"
        )
    if unused:
        notes.append(
            f"{shard}: left out {len(unused)} images without a role: {unused[:3]} ({EXPECTED})"
        )
    present = set().union(*samples)
    return Table(
        keys=Names.of(keys),
        counts=[len(keys)],
        sizes=[index.size],
        checksums=[index.checksum],
        columns={f: _column(shard, f, samples) for f in FIELDS if f in present},
        sides=_sides([fields.get("hr", Member(0, 0)) for fields in samples]),
        notes=notes,
    )


def _column(shard: str, field: str, samples: Sequence[dict[str, Member]]) -> Column:
    absent = Member(0, 0)
    members = [fields.get(field, absent) for fields in samples]
    sizes = np.array([member.size for member in members], dtype=np.int64)
    if sizes.max() >= 1 << 32:
        raise ValueError(
            f"shard {shard} has a {field} of {sizes.max()} bytes; expected 4 GiB at most"
        )
    known = any(member.checksum is not None for member in members)
    return Column(
        np.array([member.offset for member in members], dtype=np.int64),
        sizes.astype(np.uint32),
        np.array([member.checksum or 0 for member in members], dtype=np.uint64) if known else None,
    )


def _sides(members: Sequence[Member]) -> NDArray[np.unsignedinteger] | None:
    sides = np.array([member[3:5] for member in members], dtype=np.uint32)
    return _narrow(sides) if sides.any() else None


def _narrow(sides: NDArray[np.unsignedinteger]) -> NDArray[np.unsignedinteger]:
    return sides if sides.max(initial=0) >= 1 << 16 else sides.astype(np.uint16)


def joined(tables: Iterable[Table]) -> Table:
    """Join tables into one."""
    tables = list(tables)
    lengths = [len(table.keys) for table in tables]
    columns = {}
    for field in FIELDS:
        parts = [table.columns.get(field) for table in tables]
        if any(part is not None for part in parts):
            columns[field] = _joined_column(parts, lengths)
    sides = None
    if any(table.sides is not None for table in tables):
        sides = _narrow(np.concatenate([_or_zeros(t.sides, (len(t.keys), 2)) for t in tables]))
    return Table(
        keys=Names.concatenate([table.keys for table in tables]),
        counts=[count for table in tables for count in table.counts],
        sizes=[size for table in tables for size in table.sizes],
        checksums=[checksum for table in tables for checksum in table.checksums],
        columns=columns,
        sides=sides,
        notes=[note for table in tables for note in table.notes],
    )


def _joined_column(parts: Sequence[Column | None], lengths: Sequence[int]) -> Column:
    arrays: dict[str, NDArray[Any]] = {}
    for name, kind in (("offsets", np.int64), ("sizes", np.uint32), ("checksums", np.uint64)):
        given = [None if part is None else part.arrays.get(name) for part in parts]
        if any(array is not None for array in given):
            arrays[name] = np.concatenate(
                [_or_zeros(a, (n,), kind) for a, n in zip(given, lengths, strict=True)]
            )
    return Column(arrays["offsets"], arrays["sizes"], arrays.get("checksums"))


def _or_zeros(
    array: NDArray[Any] | None, shape: tuple[int, ...], kind: Any = np.uint16
) -> NDArray[Any]:
    return np.zeros(shape, kind) if array is None else array


# ----------------------------------------------------------------------------------------- the file
def save_table(table: Table, place: Path) -> None:
    """Write a table atomically, and remove the oldest if there are too many.

    Raises:
        OSError: If the folder is not writable.
    """
    lists = {name: getattr(table, name) for name in LISTS}
    arrays: dict[str, NDArray[Any]] = {
        "about": np.frombuffer(json.dumps({"version": VERSION, **lists}).encode(), np.uint8),
        "keys.blob": table.keys.blob,
        "keys.starts": table.keys.starts,
    }
    for field, column in table.columns.items():
        arrays |= {f"{field}.{name}": array for name, array in column.arrays.items()}
    if table.sides is not None:
        arrays["sides"] = table.sides
    with whole_file(place) as file:
        np.savez(file, **arrays)  # type: ignore[arg-type]
    found = [path for path in place.parent.glob("*.table.npz") if OWN_NAME.fullmatch(path.name)]
    for path in sorted(found, key=lambda path: path.stat().st_mtime)[:-KEPT]:
        remove_file(path)


def load_table(place: Path) -> Table | None:
    """Load a table; return None if it is missing, of another version, or damaged."""
    try:
        arrays = _mapped(place) if place.stat().st_size >= MAPPED else _read(place)
        about = json.loads(arrays["about"].tobytes())
        if about["version"] != VERSION:
            return None
        columns = {
            field: Column(
                arrays[f"{field}.offsets"],
                arrays[f"{field}.sizes"],
                arrays.get(f"{field}.checksums"),
            )
            for field in FIELDS
            if f"{field}.offsets" in arrays
        }
        keys = Names(arrays["keys.blob"], arrays["keys.starts"])
        lists = {name: about[name] for name in LISTS}
        return Table(keys=keys, columns=columns, sides=arrays.get("sides"), **lists)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, struct.error, zipfile.BadZipFile) as error:
        log.warning("the table %s is damaged (%s): making a new one", place, error)
        return None


def _read(place: Path) -> dict[str, NDArray[Any]]:
    with np.load(place, allow_pickle=False) as arrays:
        return dict(arrays)


def _mapped(place: Path) -> dict[str, NDArray[Any]]:
    """Return the arrays of an uncompressed ``npz``, which NumPy cannot map."""
    found = {}
    with zipfile.ZipFile(place) as archive, place.open("rb") as file:
        for member in archive.infolist():
            file.seek(member.header_offset + 26)  # lengths of a name and of extra fields
            file.seek(sum(struct.unpack("<HH", file.read(4))), os.SEEK_CUR)
            np.lib.format.read_magic(file)
            shape, _, kind = np.lib.format.read_array_header_1_0(file)
            name = member.filename.removesuffix(".npy")
            mapped = (
                np.memmap(place, kind, "r", file.tell(), shape)
                if shape[0]
                else np.zeros(shape, kind)
            )
            found[name] = np.asarray(mapped)
    return found
