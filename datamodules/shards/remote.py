"""Remote files by fsspec, with retries and readable errors."""

from __future__ import annotations

import errno
import hashlib
import logging
import os
import random
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple, TypeVar, cast
from urllib.parse import quote

import fsspec
from fsspec.asyn import AsyncFileSystem, sync

from datamodules.shards.index import checksum_of

log = logging.getLogger(__name__)
FIRST_PAUSE, LONGEST_PAUSE = 0.5, 30.0  # seconds
FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
PASSING = frozenset({408, 416, 425, 429})  # HTTP 4xx errors that a retry may fix
NO_CREDENTIALS = re.compile("Credentials|TokenRetrieval|RefreshError|ProfileNotFound")
CREDENTIALS = (
    "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or GOOGLE_APPLICATION_CREDENTIALS, or sign "
    "the address; for a public bucket FSSPEC_S3='{\"anon\": true}' or "
    'FSSPEC_GS=\'{"token": "anon"}\''
)
T = TypeVar("T")


class RemoteError(OSError):
    """A remote file could not be read; the message has its address, attempts, cause and fix.

    Args:
        message: The message for the user.
        kind: ``missing``, ``denied``, ``unreachable``, ``content`` (the server sends other bytes
            than expected) or ``setup`` (a package is missing on this host).
    """

    def __init__(self, message: str, kind: str = "unreachable") -> None:
        super().__init__(message)
        self.kind = kind

    def __reduce__(self) -> tuple[type[RemoteError], tuple[str, str]]:
        return RemoteError, (str(self), self.kind)  # workers send their errors to the trainer


class WrongContent(ValueError):  # noqa: N818  (names the state)
    """A remote file has other bytes than expected; a retry may fix it."""


class Wanted(NamedTuple):
    """A remote file.

    Args:
        url: Its address.
        version: A string that changes when the file on the server does, or an empty one.
        size: Size in bytes.
        checksum: Hexadecimal xxh3_128 of the content, if known.
    """

    url: str
    version: str
    size: int
    checksum: str | None = None

    @property
    def name(self) -> str:
        """The file's name in the cache."""
        digest = hashlib.blake2b(f"{self.url}\n{self.version}".encode(), digest_size=8).hexdigest()
        file = re.sub(r"[^\w.-]", "_", shown(self.url).rpartition("/")[2])[-80:]
        return f"{digest}-{file}"


@dataclass(frozen=True)
class RetryPolicy:
    """When to give up on a remote read.

    Args:
        retries: Further attempts after one that failed without progress.
        deadline: Seconds without progress after which no further attempt is made.
        stall: Seconds without a byte after which a connection counts as failed.
        owner: Class whose keys messages name.
    """

    retries: int = 8
    deadline: float = 300.0
    stall: float = 30.0
    owner: str = "Shards"


class Attempts:
    """The attempts at one remote read.

    Args:
        url: Address of the file.
        policy: When to give up.
    """

    def __init__(self, url: str, policy: RetryPolicy) -> None:
        self.url, self.policy = url, policy
        self.progress()

    def progress(self) -> None:
        """Reset the count, as something was read."""
        self.count, self._began = 0, time.monotonic()

    def failed(self, error: Exception) -> None:
        """Wait for the next attempt.

        Args:
            error: The error of the last attempt.

        Raises:
            RemoteError: If no further attempt follows.
            OSError: ``error`` itself, if this host's disk is full.
        """
        if isinstance(error, RemoteError) or getattr(error, "errno", None) in FULL:
            raise error
        self.count += 1
        _raise_permanent(error, self.url, self.policy.owner)
        waited = time.monotonic() - self._began
        pause = min(FIRST_PAUSE * 2 ** (self.count - 1), LONGEST_PAUSE)
        # Jitter, so that processes that failed together do not retry together.
        pause *= random.Random(f"{self.url} {self.count} {os.getpid()}").uniform(0.5, 1)
        if self.count > self.policy.retries or waited + pause > self.policy.deadline:
            wrong = isinstance(error, WrongContent)
            fix = "get or pack the file again" if wrong else "check the address and the network"
            raise RemoteError(
                f"{shown(self.url)} could not be read: {self.count} attempts in {waited:.0f} s, "
                f"the last ended with {_cause(error)}; {fix}",
                "content" if wrong else "unreachable",
            ) from error
        log.warning(
            "%s: attempt %d failed (%s), the next in %.1f s",
            shown(self.url),
            self.count,
            _cause(error),
            pause,
        )
        time.sleep(pause)


def persistently(action: Callable[[], T], url: str, policy: RetryPolicy) -> T:
    """Call ``action`` until it succeeds, and return its result.

    Raises:
        RemoteError: If no attempt succeeds.
    """
    attempts = Attempts(url, policy)
    while True:
        try:
            return action()
        except Exception as error:  # clients raise errors of a hundred classes
            attempts.failed(error)


def shown(url: str) -> str:
    """Return an address without secrets: the query (of signed addresses) and a password."""
    if url.startswith("pipe:"):
        return url
    address, query, _ = url.partition("?")
    return re.sub(r"//[^/@]+@", "//", address) + ("?..." if query else "")


def _raise_permanent(error: Exception, url: str, owner: str) -> None:
    """Raise an error that a retry cannot fix."""
    true = _root_cause(error)
    status = _status(true)
    if isinstance(true, ImportError):
        raise RemoteError(
            f"{shown(url)} needs a further package ({true}): pip install -c constraints.txt -e "
            "'.[s3]' or '.[gs]'",
            "setup",
        ) from error
    if (
        isinstance(true, PermissionError)
        or status in (401, 403, 407)
        or NO_CREDENTIALS.search(type(true).__name__)
    ):
        raise RemoteError(
            f"{shown(url)} requires other credentials ({_cause(true)}): {CREDENTIALS}", "denied"
        ) from error
    if isinstance(true, FileNotFoundError) or status in (404, 410):
        raise RemoteError(
            f"{shown(url)} does not exist ({_cause(true)}): correct {owner}.urls, or upload it",
            "missing",
        ) from error
    if status is not None and 400 <= status < 500 and status not in PASSING:
        raise RemoteError(
            f"{shown(url)} is refused ({_cause(true)}): correct {owner}.urls"
        ) from error


def _root_cause(error: BaseException) -> BaseException:
    # Some methods of fsspec's HTTP raise FileNotFoundError for every error.
    return error.__cause__ or error if isinstance(error, FileNotFoundError) else error


def _status(error: BaseException) -> int | None:
    status = str(getattr(error, "status", None) or getattr(error, "code", None))
    return int(status) if status.isdigit() else None


def _cause(error: BaseException) -> str:
    error = _root_cause(error)
    status, text = _status(error), str(error).strip()
    if status is not None:  # aiohttp's text has the whole address
        return f"HTTP status {status} {getattr(error, 'message', '')}".strip()
    text = re.sub(r"\?\S+", "?...", text.splitlines()[0]) if text else ""
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


HTTP = ("http", "https")
SCHEMES = (*HTTP, "s3", "gs")
ADDRESS = re.compile(r"(\w+://)([^/?#]*)(.*)", re.DOTALL)  # scheme, host, and the rest
CHUNK = 1 << 20
OBJECT_CHUNK = 8 << 20  # one request to an object store

# Fields that identify a file's version, best first: entity tags differ between mirrors.
STATES = ("Last-Modified", "LastModified", "updated", "mtime", "ETag", "etag", "created")


def scheme_of(url: str) -> str:
    """Return ``s3`` for ``s3://bucket/a.tar``, ``pipe`` for a command, "" for a path."""
    scheme, colon, rest = url.partition(":")
    known = rest.startswith("//") or scheme.lower() in ("pipe", "file")
    return scheme.lower() if colon and known else ""


def look_up(url: str, policy: RetryPolicy) -> Wanted:
    """Return a file with its size and version.

    Raises:
        RemoteError: If it cannot be reached, or does not exist.
    """

    def ask() -> Wanted:
        system, path = _system(url)
        info = system.info(path, **_limited(system, policy))
        if info.get("size") is None:
            raise RemoteError(
                f"{shown(url)}: its server does not say how large it is; read it by "
                "datamodules.Stream",
                "setup",
            )
        version = next((str(info[name]) for name in STATES if info.get(name)), "")
        return Wanted(url, version, info["size"])

    return persistently(ask, url, policy)


def list_urls(pattern: str, policy: RetryPolicy) -> list[str]:
    """Return the sorted addresses that match a pattern with ``*``.

    Raises:
        RemoteError: If the server cannot be reached, or the folder cannot be listed.
    """

    def ask() -> list[str]:
        system, path = _system(pattern)
        found = system.glob(path, **_limited(system, policy))
        return sorted(system.unstrip_protocol(name) for name in found)

    return persistently(ask, pattern, policy)


def read_small(url: str, policy: RetryPolicy) -> bytes | None:
    """Return a whole file of moderate size; None if it does not exist.

    Raises:
        RemoteError: If it cannot be reached.
    """

    def ask() -> bytes:
        return b"".join(blocks_from(url, 0, policy))

    try:
        return persistently(ask, url, policy)
    except RemoteError as error:
        # Object stores answer "forbidden" for a missing file if listing is not allowed.
        if error.kind in ("missing", "denied"):
            return None
        raise


def read_range(url: str, offset: int, size: int, policy: RetryPolicy) -> bytes:
    """Return some bytes of a file.

    Raises:
        RemoteError: If the server cannot be reached, or sends no parts of files; of the kind
            ``content`` if the file ends before.
    """

    def ask() -> bytes:
        system, path = _system(url)
        try:
            if scheme_of(url) in HTTP:
                return b"".join(_http_blocks(system, path, offset, offset + size, policy))
            limits = _limited(system, policy)
            return cast(bytes, system.cat_file(path, start=offset, end=offset + size, **limits))
        except Exception as error:
            if isinstance(error, WrongContent) or "not satisfiable" in str(error):
                return b""
            raise

    data = persistently(ask, url, policy) if size else b""
    if len(data) != size:
        raise RemoteError(
            f"{shown(url)} sent {len(data)} of the {size} bytes from {offset} on: get or pack it "
            "again",
            "content",
        )
    return data


def download(
    wanted: Wanted,
    part: Path,
    policy: RetryPolicy,
    stopped: Callable[[], bool] = lambda: False,
) -> None:
    """Download a remote file to ``part``, continuing where an earlier attempt ended.

    Args:
        wanted: The file.
        part: The target; existing content must be the file's beginning.
        policy: When to give up, counted from the last progress.
        stopped: Called after each block; the download ends early if it returns True.

    Raises:
        RemoteError: If the download fails; of the kind ``content`` if the file has another size or
            checksum.
        OSError: If ``part`` cannot be written.
    """
    attempts, best = Attempts(wanted.url, policy), -1
    with part.open("ab") as file:
        while True:
            have = file.tell()
            try:
                for block in blocks_from(wanted.url, have, policy) if have != wanted.size else ():
                    file.write(block)
                    if stopped():
                        return
                    if file.tell() > wanted.size:
                        raise WrongContent(f"it has more than {wanted.size} bytes")
                    if file.tell() > best:
                        best = file.tell()
                        attempts.progress()
                file.flush()
                if file.tell() == wanted.size:
                    _verify(part, wanted.checksum)
                    os.fsync(file.fileno())
                    return
                raise WrongContent(f"it has {file.tell()} bytes; expected {wanted.size}")
            except Exception as error:
                if isinstance(error, WrongContent) and file.tell() >= wanted.size:
                    file.seek(0)
                    file.truncate()
                attempts.failed(error)


def _verify(part: Path, checksum: str | None) -> None:
    found = None if checksum is None else checksum_of(part)
    if found != checksum:
        raise WrongContent(f"its checksum is {found}; expected {checksum}")


# ------------------------------------------------------------------------------------------ streams
def _system(url: str) -> tuple[Any, str]:
    # Requested each time: fsspec caches the instances, and makes new ones after a fork.
    if scheme_of(url) not in HTTP:
        return fsspec.core.url_to_fs(url)
    # A signature is of the address as it is written, here and in the answer of a server that
    # redirects. By default yarl and aiohttp quote both again.
    given = fsspec.config.conf.get(scheme_of(url), {}).get("client_kwargs", {})
    client = {**given, "requote_redirect_url": False}
    return fsspec.filesystem(scheme_of(url), encoded=True, client_kwargs=client), _sent(url)


def _sent(url: str) -> str:
    """Return an address with escapes for what no request may hold: spaces and foreign letters."""
    scheme, host, path = cast("re.Match[str]", ADDRESS.fullmatch(url)).groups()
    path = re.sub(r"[^!-~]+", lambda found: quote(found[0]), path)
    return f"{scheme}{host if host.isascii() else host.encode('idna').decode()}{path}"


def _limited(system: Any, policy: RetryPolicy) -> dict[str, float]:
    # Methods of an asynchronous system go through `sync`, which has a limit.
    return {"timeout": policy.stall} if isinstance(system, AsyncFileSystem) else {}


def blocks_from(url: str, start: int, policy: RetryPolicy) -> Iterator[bytes]:
    """Iterate over the bytes of a file from ``start`` on."""
    system, path = _system(url)
    if scheme_of(url) in HTTP:
        return _http_blocks(system, path, start, None, policy)
    return _object_blocks(system, path, start, policy)


def _object_blocks(system: Any, path: str, start: int, policy: RetryPolicy) -> Iterator[bytes]:
    limits = _limited(system, policy)
    system.invalidate_cache()  # which holds old sizes
    size = system.info(path, **limits)["size"]
    for first in range(start, size, OBJECT_CHUNK):
        end = min(first + OBJECT_CHUNK, size)
        yield system.cat_file(path, start=first, end=end, **limits)


def _http_blocks(
    system: Any, url: str, start: int, end: int | None, policy: RetryPolicy
) -> Iterator[bytes]:
    import aiohttp  # here, as its import takes 0.2 s and most sets are local

    headers = {"Accept-Encoding": "identity"}
    if start or end is not None:
        headers["Range"] = f"bytes={start}-{'' if end is None else end - 1}"
    limit = aiohttp.ClientTimeout(total=None, sock_connect=policy.stall, sock_read=policy.stall)
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


def _skipping(blocks: Iterator[bytes], count: int) -> Iterator[bytes]:
    for block in blocks:
        if count < len(block):
            yield block[count:]
        count = max(0, count - len(block))
