"""Indices of remote shards: the file beside the shard, or an index made from the shard."""

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

FEW = 4  # shards of unknown size fetched at a time: no room can be reserved for them
_TURNS = BoundedSemaphore(FEW)


def wanted_of(url: str, patience: Patience) -> Wanted:
    """Return the current state of a remote shard.

    Raises:
        RemoteError: If it does not exist, or cannot be reached.
    """
    state: RemoteState = look_up(url, patience)
    return Wanted(url, state.version, state.size)


def load_remote_index(wanted: Wanted, folder: Path, cache: DiskCache) -> ShardIndex:
    """Return the index of a remote shard: stored here, beside the shard, or made and stored here.

    Args:
        wanted: The shard.
        folder: Folder of stored indices.
        cache: Holds the shard if its index must be made.

    Raises:
        RemoteError: If it cannot be downloaded.
        ValueError: If the shard is broken, or cannot be kept.
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
        log.warning("the index of %s cannot be stored: %s", shown(wanted.url), error)
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
            "the index beside %s is of a tar of %d bytes, but that tar has %s: making a new one",
            shown(wanted.url),
            index.size,
            wanted.size,
        )
        return None
    return index


def _made(wanted: Wanted, cache: DiskCache) -> ShardIndex:
    log.info("%s has no index beside it: downloading it once", shown(wanted.url))
    while (path := cache.fetch(wanted)) is not None:
        try:
            return build_index(path, checksums=True)
        except FileNotFoundError:  # another process needed the room
            continue
        except ValueError as error:
            cache.drop(wanted)
            raise ValueError(str(error).replace(str(path), shown(wanted.url))) from error
    raise ValueError(
        f"{shown(wanted.url)} has no index beside it, and does not fit into {cache.folder} to make "
        f"one: put {shown(wanted.url)}.idx.json there, or raise Shards.cache_size ({cache.limit} "
        "bytes)"
    )
