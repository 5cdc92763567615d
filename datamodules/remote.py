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
# What tells one version of a file from the next, best first: entity tags differ between mirrors.
STATES = ("Last-Modified", "LastModified", "updated", "mtime", "ETag", "etag", "created")


@dataclass(frozen=True)
class RemoteState:
    """What a server says about a file.

    Args:
        size: Its bytes, if the server tells.
        version: Something that changes when the file does, or an empty text.
    """

    size: int | None
    version: str


def scheme_of(url: str) -> str:
    """``s3`` of ``s3://bucket/a.tar``, ``pipe`` of a command, an empty text of a path."""
    scheme, colon, rest = url.partition(":")
    known = rest.startswith("//") or scheme.lower() in ("pipe", "file")
    return scheme.lower() if colon and known else ""


def look_up(url: str, patience: Patience) -> RemoteState:
    """Size and version of a file.

    Raises:
        RemoteError: It cannot be reached, or is not there.
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
    """Addresses that a pattern with ``*`` stands for, sorted.

    Raises:
        RemoteError: The place cannot be reached or listed.
    """

    def ask() -> list[str]:
        system, path = _system(pattern)
        found = system.glob(path, **_limited(system, patience))
        return sorted(system.unstrip_protocol(name) for name in found)

    return persistently(ask, pattern, patience)


def read_small(url: str, patience: Patience) -> bytes | None:
    """A whole file of moderate size; None if it is not there.

    Raises:
        RemoteError: It cannot be reached.
    """

    def ask() -> bytes:
        content = bytearray()
        for block in blocks_from(url, 0, patience):
            content += block
            if len(content) > LARGEST_INDEX:
                raise RemoteError(
                    f"{shown(url)} is larger than {LARGEST_INDEX} bytes: it is no index"
                )
        return bytes(content)

    try:
        return persistently(ask, url, patience)
    except RemoteError as error:
        # Object stores answer "forbidden" for what is not there to those who may not list.
        if error.kind in ("missing", "denied"):
            return None
        raise


def read_range(url: str, offset: int, size: int, patience: Patience) -> bytes:
    """Some bytes of a file.

    Raises:
        RemoteError: It cannot be reached, or gives no parts of files; of the kind ``content`` if
            the file ends before.
    """
    if scheme_of(url) == "pipe":
        raise RemoteError(f"{url} has to be kept to be read: give Shards.cache_size more room")

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
            f"{shown(url)} gave {len(data)} of the {size} bytes from {offset} on: get or pack it "
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
    """Write a remote file to ``part``, going on where an earlier attempt ended.

    Args:
        url: What to get.
        part: Where to; what is in it already is taken for the file's beginning.
        size: Bytes to expect, if that is known.
        patience: How long to try, from the last progress on.
        stopped: Asked after each block; the download ends early when it says so.

    Raises:
        RemoteError: It could not be got; of the kind ``content`` if it is shorter or longer.
        OSError: ``part`` cannot be written.
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
        raise WrongContent(f"it has {more}{have} bytes, and should have {size}")


# ------------------------------------------------------------------------------------------ streams


def _system(url: str) -> tuple[Any, str]:
    # Asked for each time: fsspec keeps the instances, and makes others after a fork.
    return fsspec.core.url_to_fs(url)


def _limited(system: Any, patience: Patience) -> dict[str, float]:
    return {"timeout": patience.stall} if _takes_timeout(system) else {}


def _takes_timeout(system: Any) -> bool:
    return isinstance(system, AsyncFileSystem)  # its methods go through `sync`, which has a limit


def blocks_from(url: str, start: int, patience: Patience) -> Iterator[bytes]:
    """The bytes of a file from ``start`` on."""
    if scheme_of(url) == "pipe":
        return _skipping(_pipe_blocks(url.removeprefix("pipe:")), start)
    system, path = _system(url)
    if scheme_of(url) in HTTP:
        return _http_blocks(system, path, start, None, patience)
    return _object_blocks(system, path, start, patience)


def _object_blocks(system: Any, path: str, start: int, patience: Patience) -> Iterator[bytes]:
    limits = _limited(system, patience)
    system.invalidate_cache()  # of what it was told about sizes
    size = system.info(path, **limits)["size"]
    for first in range(start, size, OBJECT_CHUNK):
        end = min(first + OBJECT_CHUNK, size)
        yield system.cat_file(path, start=first, end=end, **limits)


def _http_blocks(
    system: Any, url: str, start: int, end: int | None, patience: Patience
) -> Iterator[bytes]:
    import aiohttp  # here, because it takes 0.2 s to import, and most sets are local

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
                f"{shown(url)}: its server gives no parts of files, so it must be kept: give "
                "Shards.cache_size and its disk more room"
            )
        blocks = chain([first], iter(lambda: sync(loop, response.content.read, CHUNK), b""))
        yield from _skipping(blocks, start if whole else 0)
    finally:  # not waited for: the collector may run this in any thread
        loop.call_soon_threadsafe(response.close)


async def _request(system: Any, url: str, options: dict[str, Any]) -> tuple[Any, bytes]:
    """A response and its first bytes.

    Both are taken without leaving the event loop: aiohttp hands out nothing any more once a
    connection broke, not even what it has received, and an attempt that got many bytes would
    count as one without progress if this thread came back for them too late.
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
