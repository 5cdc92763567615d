"""Files on web servers and in object stores, and the output of commands, read by fsspec."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import IO, Any, cast

import fsspec
from fsspec.asyn import AsyncFileSystem, sync

from datamodules.retry import Attempts, Patience, RemoteError, WrongContent, persistently, shown

HTTP = ("http", "https")
SCHEMES = (*HTTP, "s3", "gs")
CHUNK = 1 << 20
OBJECT_CHUNK = 8 << 20  # one request to an object store
LARGEST_INDEX = 1 << 30
# Fields that identify a file's version, best first: entity tags differ between mirrors.
STATES = ("Last-Modified", "LastModified", "updated", "mtime", "ETag", "etag", "created")


@dataclass(frozen=True)
class RemoteState:
    """State of a file on its server.

    Args:
        size: Size in bytes, if the server reports it.
        version: A string that changes when the file does, or an empty one.
    """

    size: int | None
    version: str


def scheme_of(url: str) -> str:
    """Return ``s3`` for ``s3://bucket/a.tar``, ``pipe`` for a command, "" for a path."""
    scheme, colon, rest = url.partition(":")
    known = rest.startswith("//") or scheme.lower() in ("pipe", "file")
    return scheme.lower() if colon and known else ""


def look_up(url: str, patience: Patience) -> RemoteState:
    """Return the size and version of a file.

    Raises:
        RemoteError: If it cannot be reached, or does not exist.
    """
    if scheme_of(url) == "pipe":
        return RemoteState(None, "")

    def ask() -> RemoteState:
        system, path = _system(url)
        info = system.info(path, **_limited(system, patience))
        version = next((str(info[name]) for name in STATES if info.get(name)), "")
        return RemoteState(info.get("size"), version)

    return persistently(ask, url, patience)


def list_urls(pattern: str, patience: Patience) -> list[str]:
    """Return the sorted addresses that match a pattern with ``*``.

    Raises:
        RemoteError: If the server cannot be reached, or the folder cannot be listed.
    """

    def ask() -> list[str]:
        system, path = _system(pattern)
        found = system.glob(path, **_limited(system, patience))
        return sorted(system.unstrip_protocol(name) for name in found)

    return persistently(ask, pattern, patience)


def read_small(url: str, patience: Patience) -> bytes | None:
    """Return a whole file of moderate size; None if it does not exist.

    Raises:
        RemoteError: If it cannot be reached.
    """

    def ask() -> bytes:
        content = bytearray()
        for block in blocks_from(url, 0, patience):
            content += block
            if len(content) > LARGEST_INDEX:
                raise RemoteError(
                    f"{shown(url)} is larger than {LARGEST_INDEX} bytes: it is not an index"
                )
        return bytes(content)

    try:
        return persistently(ask, url, patience)
    except RemoteError as error:
        # Object stores answer "forbidden" for a missing file if listing is not allowed.
        if error.kind in ("missing", "denied"):
            return None
        raise


def read_range(url: str, offset: int, size: int, patience: Patience) -> bytes:
    """Return some bytes of a file.

    Raises:
        RemoteError: If the server cannot be reached, or sends no parts of files; of the kind
            ``content`` if the file ends before.
    """
    if scheme_of(url) == "pipe":
        raise RemoteError(f"{url} can be read only from the cache: raise Shards.cache_size")

    def ask() -> bytes:
        system, path = _system(url)
        try:
            if scheme_of(url) in HTTP:
                return b"".join(_http_blocks(system, path, offset, offset + size, patience))
            limits = _limited(system, patience)
            return cast(bytes, system.cat_file(path, start=offset, end=offset + size, **limits))
        except Exception as error:
            if isinstance(error, WrongContent) or "not satisfiable" in str(error):
                return b""
            raise

    data = persistently(ask, url, patience) if size else b""
    if len(data) != size:
        raise RemoteError(
            f"{shown(url)} sent {len(data)} of the {size} bytes from {offset} on: get or pack it "
            "again",
            "content",
        )
    return data


def download(
    url: str,
    part: Path,
    size: int | None,
    patience: Patience,
    stopped: Callable[[], bool] = lambda: False,
) -> None:
    """Download a remote file to ``part``, continuing where an earlier attempt ended.

    Args:
        url: The file's address.
        part: The target; existing content must be the file's beginning.
        size: Expected size in bytes, if known.
        patience: When to give up, counted from the last progress.
        stopped: Called after each block; the download ends early if it returns True.

    Raises:
        RemoteError: If the download fails; of the kind ``content`` if the file has another size.
        OSError: If ``part`` cannot be written.
    """
    attempts, best = Attempts(url, patience), -1
    with part.open("ab") as file:
        while True:
            have = file.tell()
            try:
                for block in blocks_from(url, have, patience) if have != size else ():
                    file.write(block)
                    if stopped():
                        return
                    _check_length(file.tell(), size, over=True)
                    if file.tell() > best:
                        best = file.tell()
                        attempts.progress()
                file.flush()
                _check_length(file.tell(), size, over=False)
                os.fsync(file.fileno())
                return
            except Exception as error:
                if isinstance(error, WrongContent) and size is not None and file.tell() > size:
                    file.truncate(0)
                attempts.failed(error)


def _check_length(have: int, size: int | None, over: bool) -> None:
    if size is not None and (have > size if over else have != size):
        more = "at least " if over else ""
        raise WrongContent(f"it has {more}{have} bytes; expected {size}")


# ------------------------------------------------------------------------------------------ streams


def _system(url: str) -> tuple[Any, str]:
    # Requested each time: fsspec caches the instances, and makes new ones after a fork.
    return fsspec.core.url_to_fs(url)


def _limited(system: Any, patience: Patience) -> dict[str, float]:
    return {"timeout": patience.stall} if _takes_timeout(system) else {}


def _takes_timeout(system: Any) -> bool:
    return isinstance(system, AsyncFileSystem)  # its methods go through `sync`, which has a limit


def blocks_from(url: str, start: int, patience: Patience) -> Iterator[bytes]:
    """Iterate over the bytes of a file from ``start`` on."""
    if scheme_of(url) == "pipe":
        return _skipping(_pipe_blocks(url.removeprefix("pipe:")), start)
    system, path = _system(url)
    if scheme_of(url) in HTTP:
        return _http_blocks(system, path, start, None, patience)
    return _object_blocks(system, path, start, patience)


def _object_blocks(system: Any, path: str, start: int, patience: Patience) -> Iterator[bytes]:
    limits = _limited(system, patience)
    system.invalidate_cache()  # which holds old sizes
    size = system.info(path, **limits)["size"]
    for first in range(start, size, OBJECT_CHUNK):
        end = min(first + OBJECT_CHUNK, size)
        yield system.cat_file(path, start=first, end=end, **limits)


def _http_blocks(
    system: Any, url: str, start: int, end: int | None, patience: Patience
) -> Iterator[bytes]:
    import aiohttp  # here, as its import takes 0.2 s and most sets are local

    headers = {"Accept-Encoding": "identity"}
    if start or end is not None:
        headers["Range"] = f"bytes={start}-{'' if end is None else end - 1}"
    limit = aiohttp.ClientTimeout(total=None, sock_connect=patience.stall, sock_read=patience.stall)
    options = {**system.kwargs, "headers": headers, "timeout": limit}
    loop = system.loop
    try:
        response, first = sync(loop, _request, system, url, options)
    except aiohttp.ClientResponseError as error:
        if error.status == 416:
            raise WrongContent(f"it ends before byte {start + 1}") from error
        raise
    try:
        whole = response.status == 200 and "Range" in headers
        if whole and end is not None:
            raise RemoteError(
                f"{shown(url)}: its server sends no parts of files, so it must be cached: raise "
                "Shards.cache_size, or free space on its disk"
            )
        blocks = chain([first], iter(lambda: sync(loop, response.content.read, CHUNK), b""))
        yield from _skipping(blocks, start if whole else 0)
    finally:  # without waiting: the garbage collector may run this in any thread
        loop.call_soon_threadsafe(response.close)


async def _request(system: Any, url: str, options: dict[str, Any]) -> tuple[Any, bytes]:
    """Return a response and its first bytes.

    Both are read without leaving the event loop: once a connection breaks, aiohttp returns nothing,
    not even received bytes, so an attempt that got many bytes would count as one without progress
    if this thread asked for them too late.
    """
    session = await system.set_session()
    response = await session.get(system.encode_url(url), **options)
    try:
        response.raise_for_status()
        return response, await response.content.read(CHUNK)
    except BaseException:
        response.close()
        raise


def _pipe_blocks(command: str) -> Iterator[bytes]:
    with subprocess.Popen(command, shell=True, stdout=subprocess.PIPE) as process:
        output = cast(IO[bytes], process.stdout)
        yield from iter(lambda: output.read(CHUNK), b"")
    if process.returncode:
        raise OSError(f"the command ended with status {process.returncode}")


def _skipping(blocks: Iterator[bytes], count: int) -> Iterator[bytes]:
    for block in blocks:
        if count < len(block):
            yield block[count:]
        count = max(0, count - len(block))
