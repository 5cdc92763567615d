"""Places of all samples of a set, in a few arrays that forked processes share."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from datamodules.files.roles import EXPECTED, FIELDS, SUFFIXES, checked_roles
from datamodules.shards.index import Member, ShardIndex

RULE = "a key ends at the first dot of the file name"
PLACE = np.dtype(  # of a member, as ``Member``; zeros if a sample lacks it
    [("offset", "i8"), ("size", "i8"), ("checksum", "u8"), ("height", "u4"), ("width", "u4")]
)
Column = NDArray[Any]  # (n,) of PLACE


@dataclass(frozen=True)
class Table:
    """The samples of some shards, in order.

    Args:
        keys: (n) names of the samples.
        counts: Number of samples of each shard.
        columns: Places by field of ``FIELDS``, for fields that some sample has.
        notes: Warnings about skipped samples.
    """

    keys: list[str]
    counts: list[int]
    columns: dict[str, Column]
    notes: list[str]

    def place(self, field: str, index: int) -> Member:
        """Return the place of a field of a sample; its size is 0 if the sample lacks it."""
        return Member(*self.columns[field][index].item())

    def samples_without(self, field: str) -> NDArray[np.intp]:
        """Return the numbers of the samples without a field that others have."""
        column = self.columns.get(field)
        return np.flatnonzero([] if column is None else column["offset"] == 0)

    def check_lr(self, name: str) -> None:
        """Raise if only some samples have an LR.

        Args:
            name: Where the samples are from.
        """
        if len(absent := self.samples_without("lr")):
            raise ValueError(
                f"{name}: {len(absent)} of {len(self.keys)} samples have no lr.<ext>, such as "
                f"{self.keys[int(absent[0])]!r}; all must have one, or none"
            )


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
    keys, samples = list[str](), list[dict[str, Member]]()
    others, unused = list[str](), list[str]()
    for key, members in zip(index.keys, index.members, strict=True):
        roles = checked_roles(shard, key, tuple(members))
        if needed in roles.members:
            keys.append(prefix + key)
            samples.append({field: members[suffix] for field, suffix in roles.members.items()})
        else:
            others.append(f"{key!r} with {', '.join(members)}")
        unused += [f"{key}.{suffix}" for suffix in roles.unused]
    if not samples:
        expected = "hr.<ext> or <ext>, with an extension out of " + ", ".join(sorted(SUFFIXES))
        if needed == "latent":
            expected = "latent.npy, as main.py encode writes it"
        raise ValueError(
            f"shard {shard}: none of its {len(others)} samples can be used ({others[:1]}); "
            f"expected a member {expected} ({RULE})"
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
    present, absent = set().union(*samples), Member(0, 0)
    return Table(
        keys=keys,
        counts=[len(keys)],
        columns={
            field: np.array([sample.get(field, absent) for sample in samples], PLACE)
            for field in FIELDS
            if field in present
        },
        notes=notes,
    )


def join_tables(tables: Iterable[Table]) -> Table:
    """Join tables into one."""
    tables = list(tables)
    columns = {}
    for field in FIELDS:
        if any(field in table.columns for table in tables):
            parts = [t.columns.get(field, np.zeros(len(t.keys), PLACE)) for t in tables]
            columns[field] = np.concatenate(parts)
    return Table(
        keys=[key for table in tables for key in table.keys],
        counts=[count for table in tables for count in table.counts],
        columns=columns,
        notes=[note for table in tables for note in table.notes],
    )
