"""``doctor``: whether tars are whole, hold pictures, and agree with the indices beside them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from commands.doctor_lines import BROKEN, Check, Line, Options, broken, look, ok, said
from commands.doctor_machine import size

if TYPE_CHECKING:
    from datamodules.retry import Patience
    from datamodules.shard_index import ShardIndex

NAME = "shards"
MOST_LINES = 10  # about tars one by one
AGAIN = "get or pack it again"


class Whole(NamedTuple):
    """A tar that can be read.

    Args:
        samples: How many it has.
        size: Its bytes.
        kept: The index that is beside it.
    """

    samples: int
    size: int
    kept: ShardIndex | None


def shards(options: Options) -> Iterator[Line]:
    """A line for each tar that is not as it should be, and one about all others."""
    from tqdm import tqdm

    from datamodules.retry import Patience
    from datamodules.shard_urls import is_remote, list_shards

    patience = Patience(retries=2, deadline=20.0, stall=5.0)
    names = list_shards(list(options.shards), allow_pipes=False, patience=patience)
    far = [name for name in names if is_remote(name)]
    yield from _remote(far, patience)
    near = [Path(name) for name in names if name not in far]
    lines: list[Line] = []
    whole: list[Whole] = []
    # None: a bar only where this is a terminal.
    for path in tqdm(near, unit=" tars", leave=False, disable=None):
        try:
            one, told = _look_at(path, options.checksums)
        except (ValueError, OSError) as error:  # it names the tar and the mend
            lines.append(broken(NAME, str(error)))
            continue
        lines += told
        whole.append(one)
    yield from lines[:MOST_LINES]
    if len(lines) > MOST_LINES:
        worst = broken if any(line.verdict == BROKEN for line in lines[MOST_LINES:]) else look
        yield worst(NAME, f"and {len(lines) - MOST_LINES} more lines of this kind")
    if whole:
        yield ok(NAME, _summary(len(near), whole, options.checksums))


CHECKS: dict[str, Check] = {NAME: shards}


# ------------------------------------------------------------------------------------------- parts


def _look_at(path: Path, checksums: bool) -> tuple[Whole, list[Line]]:
    """What is there, and what is wrong with it without being fatal."""
    from datamodules.decode import decode
    from datamodules.shard_index import build_index, scattered, sort_command
    from datamodules.shard_table import table_of

    found = build_index(path, checksums=checksums)
    table = table_of(str(path), found, needed=_needed(found))
    if "hr" in table.columns:
        hr = table.columns["hr"]
        with path.open("rb") as file:
            file.seek(int(hr.offsets[0]))
            decode(file.read(int(hr.sizes[0])), f"{path}: {table.keys[0]}")
    index, line = _index(path)
    lines = [look(NAME, note) for note in table.notes]
    lines += [line] if line is not None else []
    if apart := scattered(found):
        lines.append(
            look(
                NAME,
                f"{path}: the members of {len(apart)} samples, such as {apart[0]!r}, do not lie "
                "next to each other: Shards joins them, Stream and webdataset do not. To sort "
                f"it: {sort_command(path)}",
            )
        )
    if index is not None:
        _compare(path, index, found)
    return Whole(len(table.keys), found.size, index), lines


def _needed(found: ShardIndex) -> str:
    # Latents of `encode` may be without pictures.
    return "latent" if "latent.npy" in found.members[0] else "hr"


def _index(path: Path) -> tuple[ShardIndex | None, Line | None]:
    from datamodules.shard_index import parse_index

    place = path.with_name(f"{path.name}.idx.json")
    if not place.is_file():
        return None, None
    mend = "fit makes it again where it may write there; else remove it"
    try:
        index = parse_index(place.read_bytes())
    except ValueError as error:
        return None, look(NAME, f"{place} is damaged ({said(error)}): {mend}")
    if index is None:
        return None, look(NAME, f"{place} is of another version: {mend}")
    if index.size != path.stat().st_size:
        there = f"a tar of {index.size} bytes, and {path.name} has {path.stat().st_size}"
        return None, look(NAME, f"{place} is of {there}: {mend}")
    return index, None


def _compare(path: Path, index: ShardIndex, found: ShardIndex) -> None:
    for key, there, here in zip(index.keys, index.members, found.members, strict=False):
        for suffix, member in here.items():
            kept = there.get(suffix)
            if kept is None or kept[:2] != member[:2]:
                raise ValueError(
                    f"{path}: its index has {key!r} at other bytes than the tar: remove "
                    f"{path.name}.idx.json"
                )
            if None not in (kept.checksum, member.checksum) and kept.checksum != member.checksum:
                raise ValueError(
                    f"{path}: the bytes of {key}.{suffix} are not those that were packed: {AGAIN}"
                )
    if index.keys != found.keys:
        raise ValueError(
            f"{path}: its index has {len(index.keys)} samples, or others than the "
            f"{len(found.keys)} of the tar: remove {path.name}.idx.json"
        )
    if None not in (index.checksum, found.checksum) and index.checksum != found.checksum:
        raise ValueError(f"{path} is not the tar that was packed, by its checksum: {AGAIN}")


def _remote(names: list[str], patience: Patience) -> Iterator[Line]:
    from datamodules.remote_index import wanted_of
    from datamodules.retry import RemoteError, shown

    for name in names:
        try:
            wanted_of(name, patience)
        except (RemoteError, ValueError, OSError) as error:
            yield broken(NAME, f"{shown(name)}: {said(error)}")
            return  # the others are most likely on the same server
    if names:
        yield ok(
            NAME, f"{len(names)} of servers answer; their bytes are compared when they are read"
        )


def _summary(count: int, whole: list[Whole], checksums: bool) -> str:
    samples, bytes_ = sum(one.samples for one in whole), sum(one.size for one in whole)
    text = f"{len(whole)} of {count} tars are whole, {samples} samples, {size(bytes_)}; the first "
    text += "picture of each is readable; "
    indices = [one.kept for one in whole if one.kept is not None]
    if len(indices) < len(whole):
        text += f"{len(whole) - len(indices)} without an index, which fit makes; "
    if not checksums:
        return f"{text}--doctor.checksums true compares every byte"
    compared = sum(index.checksum is not None for index in indices)
    if compared < len(whole):
        return f"{text}the checksums of {compared} are right, and the others have none"
    return f"{text}all checksums are right"
