"""Indices of remote shards: the one beside the shard, or one that is made of it."""

from __future__ import annotations

import logging
from contextlib import nullcontext
from pathlib import Path
from threading import BoundedSemaphore

from datamodules.cache import DiskCache, Wanted
from datamodules.remote import RemoteState, look_up, read_small, scheme_of
from datamodules.retry import Patience, shown
from datamodules.shard_index import (
    ShardIndex,
    build_index,
    parse_index,
    read_index,
    save_index,
)

log = logging.getLogger(__name__)

FEW = 4  # shards of unknown size that are fetched at a time: no room can be reserved for them
_TURNS = BoundedSemaphore(FEW)


def wanted_of(url: str, patience: Patience) -> Wanted:
    """A remote shard as it is now.

    Raises:
        RemoteError: It is not there, or cannot be reached.
    """
    state: RemoteState = look_up(url, patience)
    return Wanted(url, state.version, state.size)


def load_remote_index(wanted: Wanted, folder: Path, cache: DiskCache) -> ShardIndex:
    """The index of a remote shard: kept here, or beside it, or a new one; then it is kept here.

    Args:
        wanted: The shard.
        folder: Where indices are kept.
        cache: Where the shard goes if its index has to be made.

    Raises:
        RemoteError: It cannot be got.
        ValueError: The shard is broken, or cannot be kept.
    """
    place = folder / f"{wanted.name}.idx.json"
    index = read_index(place)
    if index is not None and wanted.size in (None, index.size):
        return index
    index = _beside(wanted, cache.patience)
    if index is None:
        with _TURNS if wanted.size is None else nullcontext():
            index = _made(wanted, cache)
    try:
        save_index(index, place)
    except OSError as error:
        log.warning("the index of %s cannot be kept: %s", shown(wanted.url), error)
    return index


def _beside(wanted: Wanted, patience: Patience) -> ShardIndex | None:
    if scheme_of(wanted.url) == "pipe":
        return None
    address, question, query = wanted.url.partition("?")
    data = read_small(f"{address}.idx.json{question}{query}", patience)
    if data is None:
        return None
    try:
        index = parse_index(data)
    except ValueError as error:
        log.warning("the index beside %s is damaged: %s", shown(wanted.url), error)
        return None
    if index is not None and wanted.size not in (None, index.size):
        log.warning(
            "the index beside %s is of a tar of %d bytes, and that one has %s: it is made again",
            shown(wanted.url),
            index.size,
            wanted.size,
        )
        return None
    return index


def _made(wanted: Wanted, cache: DiskCache) -> ShardIndex:
    log.info("%s has no index beside it: it is fetched, once", shown(wanted.url))
    while (path := cache.fetch(wanted)) is not None:
        try:
            return build_index(path, checksums=True)
        except FileNotFoundError:  # another process needed the room
            continue
        except ValueError as error:
            cache.drop(wanted)
            raise ValueError(str(error).replace(str(path), shown(wanted.url))) from error
    raise ValueError(
        f"{shown(wanted.url)} has no index beside it, and cannot be kept in {cache.folder} to make "
        f"one: put {shown(wanted.url)}.idx.json there, or raise Shards.cache_size ({cache.limit} "
        "bytes)"
    )
