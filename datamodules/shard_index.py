"""What lies where in a WebDataset tar: found in one pass over its headers, and kept beside it."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import tarfile
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import NamedTuple

log = logging.getLogger(__name__)

VERSION = 1  # of the index file; another one is made again
BLOCK = 512  # of a tar
METADATA = re.compile(r"__[^/]*__($|/)")  # names that WebDataset readers pass over


class Extent(NamedTuple):
    """Bytes of one member."""

    offset: int
    size: int


@dataclass(frozen=True)
class ShardIndex:
    """The samples of one tar.

    Args:
        size: Bytes of the tar.
        mtime_ns: Its time of modification.
        keys: Names of the samples, in the tar's order.
        members: For each sample, where each of its members is, by suffix: ``{"jpg": ...}``.
    """

    size: int
    mtime_ns: int
    keys: list[str]
    members: list[dict[str, Extent]]


def split_name(name: str) -> tuple[str, str] | None:
    """Key and suffix of a member as WebDataset has them: split at the file name's first dot.

    Args:
        name: Name of the member, e.g. ``a/b.hr.PNG``, which gives ``("a/b", "hr.png")``.

    Returns:
        None for members that belong to no sample: hidden files, names without a dot, metadata.
    """
    if METADATA.match(name):
        return None
    folder, slash, file = name.removeprefix("./").rpartition("/")
    stem, dot, suffix = file.partition(".")
    if not stem or not dot:
        return None
    return f"{folder}{slash}{stem}", suffix.lower()


def load_index(shard: Path, cache: Path) -> ShardIndex:
    """The index of a tar: the one beside it, or in the cache, or a new one, which is kept.

    Args:
        shard: The tar.
        cache: Folder for the index if that of the tar cannot be written.

    Raises:
        ValueError: The tar is broken.
    """
    places = index_places(shard, cache)
    state = shard.stat()
    for place in places:
        index = _read(place)
        if index and (index.size, index.mtime_ns) == (state.st_size, state.st_mtime_ns):
            return index
    log.info("reading the headers of %s, once", shard)
    index = build_index(shard)
    # A folder without write permission is left alone also by root, whom nothing would stop.
    writable = places if shard.parent.stat().st_mode & 0o222 else places[1:]
    for place in writable:
        try:
            save_index(index, place)
        except OSError as error:
            log.debug("cannot write %s: %s", place, error)
        else:
            return index
    log.warning("no index of %s could be kept in %s: it is made at every start", shard, writable)
    return index


def index_places(shard: Path, cache: Path) -> list[Path]:
    """Files in which the index of a tar may be, best first."""
    name = f"{shard.name}.idx.json"
    # By the whole path: shards of two sets often have the same names.
    digest = hashlib.blake2b(str(shard.resolve()).encode(), digest_size=8).hexdigest()
    return [shard.with_name(name), cache / f"{digest}-{name}"]


def build_index(shard: Path) -> ShardIndex:
    """Go through the headers of a tar.

    Raises:
        ValueError: The tar is empty, truncated, damaged or compressed, a sample has two members of
            one suffix, or a name leads out of the folder (``..``).
    """
    state = shard.stat()
    if state.st_size == 0:
        raise ValueError(f"shard {shard} is empty (0 bytes)")
    keys: list[str] = []
    members: list[dict[str, Extent]] = []
    others = 0
    try:
        with tarfile.open(shard, mode="r:") as tar:
            for member in tar:
                name = split_name(member.name) if member.isreg() and not member.issparse() else None
                if name is None:
                    others += not member.isdir()
                    continue
                _check_name(member.name, shard)
                if not keys or keys[-1] != name[0]:
                    keys.append(name[0])
                    members.append({})
                if name[1] in members[-1]:
                    raise ValueError(f"shard {shard} has two members {member.name!r} in one sample")
                members[-1][name[1]] = Extent(member.offset_data, member.size)
            end = tar.offset
    except tarfile.TarError as error:
        raise ValueError(
            f"shard {shard} is no tar that can be read by offset ({error}): it is truncated, "
            "damaged or compressed; get it again, uncompress it, or pack it again"
        ) from error
    _check_end(shard, end)
    if not keys:
        raise ValueError(f"shard {shard} holds no samples")
    if others:
        log.warning("%s: passed over %d members that belong to no sample", shard, others)
    return ShardIndex(state.st_size, state.st_mtime_ns, keys, members)


def _check_name(name: str, shard: Path) -> None:
    # Keys become names of results, so this one would be written outside of their folder.
    if name.startswith("/") or ".." in PurePosixPath(name).parts:
        raise ValueError(f"shard {shard} has a member {name!r}, which leads out of its folder")


def _check_end(shard: Path, end: int) -> None:
    # tarfile takes a header that is cut off or damaged for the end. A whole tar ends with zeros.
    with shard.open("rb") as file:
        file.seek(end)
        block = file.read(BLOCK)
    if block != bytes(BLOCK):
        what = "damaged" if len(block) == BLOCK else "truncated"
        raise ValueError(
            f"shard {shard} is {what} at byte {end} of {shard.stat().st_size}: get or pack it again"
        )


def save_index(index: ShardIndex, path: Path) -> None:
    """Write an index in one piece: a reader sees the whole file or none.

    Raises:
        OSError: The folder cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    content = {
        "version": VERSION,
        "size": index.size,
        "mtime_ns": index.mtime_ns,
        "samples": list(zip(index.keys, index.members, strict=True)),
    }
    try:
        part.write_text(json.dumps(content, separators=(",", ":")), encoding="utf-8")
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def _read(path: Path) -> ShardIndex | None:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["version"] != VERSION:
            return None
        keys = [str(key) for key, _ in content["samples"]]
        members = [
            {suffix: Extent(int(offset), int(size)) for suffix, (offset, size) in sample.items()}
            for _, sample in content["samples"]
        ]
        return ShardIndex(int(content["size"]), int(content["mtime_ns"]), keys, members)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        log.warning("the index %s is damaged (%s) and is made again", path, error)
        return None
