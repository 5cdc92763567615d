"""Remote files by fsspec: sizes, ranges of bytes, and a file to read from front to back."""

from __future__ import annotations

import hashlib
import io
import logging
import random
import re
import time
from typing import Any, NamedTuple, cast

import fsspec

log = logging.getLogger(__name__)

HTTP = ("http", "https")
SCHEMES = (*HTTP, "s3", "gs")
CHUNK = 16 << 20  # bytes of one request
STALL = 30.0  # seconds without a byte after which a request fails
DEADLINE = 300.0  # seconds of failed requests after which a read fails
FIRST_PAUSE, LONGEST_PAUSE = 0.5, 30.0  # seconds between attempts
PASSING = frozenset({408, 425, 429})  # HTTP 4xx errors that a retry may fix

# Fields that identify a file's version, best first: entity tags differ between mirrors.
VERSIONS = ("Last-Modified", "LastModified", "updated", "mtime", "ETag", "etag", "created")


class RemoteError(OSError):
    """A remote file could not be read."""


class RemoteShard(NamedTuple):
    """A remote tar.

    Args:
        url: Its address.
        version: A string that changes when the file on the server does, or an empty one.
        size: Size in bytes.
    """

    url: str
    version: str
    size: int

    @property
    def name(self) -> str:
        """The file's name in the cache."""
        digest = hashlib.blake2b(f"{self.url}\n{self.version}".encode(), digest_size=8).hexdigest()
        file = re.sub(r"[^\w.-]", "_", hide_secrets(self.url).rpartition("/")[2])[-80:]
        return f"{digest}-{file}"


def hide_secrets(url: str) -> str:
    """Return an address without secrets: the query (of signed addresses) and a password."""
    if url.startswith("pipe:"):
        return url
    address, query, _ = url.partition("?")
    return re.sub(r"//[^/@]+@", "//", address) + ("?..." if query else "")


def scheme_of(url: str) -> str:
    """Return ``s3`` for ``s3://bucket/a.tar``, ``pipe`` for a command, "" for a path."""
    scheme, colon, rest = url.partition(":")
    is_address = rest.startswith("//") or scheme.lower() in ("pipe", "file")
    return scheme.lower() if colon and is_address else ""


# ----------------------------------------------------------------------------------------- requests


def look_up(url: str) -> RemoteShard:
    """Return a file with its size and version.

    Raises:
        RemoteError: If it cannot be reached, does not exist, or has no known size.
    """
    info = _call_with_retries("info", url)
    if info.get("size") is None:
        raise RemoteError(
            f"{hide_secrets(url)}: its server does not say how large it is; read it by "
            "datamodules.Stream"
        )
    version = next((str(info[name]) for name in VERSIONS if info.get(name)), "")
    return RemoteShard(url, version, info["size"])


def list_urls(pattern: str) -> list[str]:
    """Return the sorted addresses that match a pattern with ``*``.

    Raises:
        RemoteError: If the server cannot be reached, or the folder cannot be listed.
    """
    names = _call_with_retries("glob", pattern)
    system, _ = _file_system(pattern)
    return sorted(system.unstrip_protocol(name) for name in names)


def read_small(url: str) -> bytes:
    """Return a whole file of moderate size.

    Raises:
        RemoteError: If it does not exist, or cannot be reached.
    """
    return cast(bytes, _call_with_retries("cat_file", url))


def read_range(url: str, offset: int, size: int) -> bytes:
    """Return some bytes of a file; fewer if it ends before.

    Raises:
        RemoteError: If the server cannot be reached.
    """
    return _read_from(url, offset, size)[:size]


def _read_from(url: str, offset: int, size: int) -> bytes:
    """Return ``size`` bytes, or all to the end from a server that sends whole files only."""
    data: bytes = _call_with_retries("cat_file", url, start=offset, end=offset + size)
    return data[offset:] if len(data) > size else data


class _RemoteFile(io.RawIOBase):
    """A remote file from front to back; a request that fails is repeated from where it was."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._position = 0
        self._rest = memoryview(b"")
        self._is_last = False  # whether ``_rest`` ends with the file

    def readable(self) -> bool:
        """Return True."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Fill a buffer from the file, and return the number of bytes; 0 at the end."""
        if not (self._rest or self._is_last):
            # A server without ranges sends the whole file each time. If that has CHUNK bytes, a
            # second request of CHUNK would take it for the next part; of one less, it is too long.
            size = CHUNK - 1 if self._position else CHUNK
            self._rest = memoryview(_read_from(self._url, self._position, size))
            self._position += len(self._rest)
            self._is_last = len(self._rest) != size
        count = min(len(buffer), len(self._rest))
        buffer[:count] = self._rest[:count]
        self._rest = self._rest[count:]
        return count


def open_remote(url: str, *_: Any) -> io.BufferedReader:
    """Open a remote file. Further arguments are those of webdataset's ``gopen_schemes``."""
    return io.BufferedReader(_RemoteFile(url))


# ------------------------------------------------------------------------------------------ retries


def _call_with_retries(method: str, url: str, **options: Any) -> Any:
    """Call a method of a file system until it succeeds, and return its result.

    Bytes that begin after the end of a file are empty.

    Raises:
        RemoteError: If no attempt succeeds until the deadline, or another one would be of no use.
    """
    began, attempts = time.monotonic(), 0
    while True:
        try:
            system, path = _file_system(url)
            return getattr(system, method)(path, **options)
        except Exception as error:  # clients raise errors of a hundred classes
            cause = _root_cause(error)
            if _is_past_the_end(cause):
                return b""
            attempts += 1
            _wait_or_raise(url, cause, attempts, time.monotonic() - began)


def _wait_or_raise(url: str, error: BaseException, attempts: int, waited: float) -> None:
    """Wait for the next attempt, or raise, as ``_call_with_retries`` does, if there is none."""
    pause = min(FIRST_PAUSE * 2 ** (attempts - 1), LONGEST_PAUSE)
    # Processes that failed together do not retry together. A generator of its own, since the
    # global one follows from the sample's seed.
    pause *= random.Random().uniform(0.5, 1)
    problem = f"attempt {attempts} failed ({_describe(error)})"
    if not _may_succeed_later(error) or waited + pause > DEADLINE:
        message = f"{hide_secrets(url)} cannot be read: {problem} after {waited:.0f} s"
        raise RemoteError(message) from error
    log.warning("%s: %s, the next in %.1f s", hide_secrets(url), problem, pause)
    time.sleep(pause)


def _root_cause(error: Exception) -> BaseException:
    """Return the client's own error: fsspec's HTTP raises FileNotFoundError for some others."""
    return error.__cause__ or error if isinstance(error, FileNotFoundError) else error


def _is_past_the_end(error: BaseException) -> bool:
    """Return whether a server refused a range of bytes: HTTP's 416, or S3's words for it."""
    return getattr(error, "status", None) == 416 or "not satisfiable" in str(error)


def _may_succeed_later(error: BaseException) -> bool:
    """Return whether another attempt may succeed after this error."""
    status = getattr(error, "status", None)  # of HTTP
    if status is not None:
        return status >= 500 or status in PASSING
    if isinstance(error, FileNotFoundError | PermissionError | ValueError):
        return False
    import aiohttp  # here, as its import is slow and few runs read remote files

    return isinstance(error, OSError | aiohttp.ClientError)


def _describe(error: BaseException) -> str:
    """Return an error's type and text, which may hold the address."""
    return hide_secrets(f"{type(error).__name__}: {error}").removesuffix(": ")


def _file_system(url: str) -> tuple[Any, str]:
    """Return fsspec's file system for an address, and the address as it takes it."""
    # Requested each time: fsspec caches the instances, and makes new ones after a fork.
    scheme = scheme_of(url)
    if scheme not in HTTP:
        return fsspec.core.url_to_fs(url)
    import aiohttp

    settings = fsspec.config.conf.get(scheme, {})
    # A signature is of the address as it is written, here and in the answer of a server that
    # redirects. By default yarl and aiohttp quote both again.
    client = {
        "timeout": aiohttp.ClientTimeout(total=None, sock_connect=STALL, sock_read=STALL),
        **settings.get("client_kwargs", {}),
        "requote_redirect_url": False,
    }
    # A part of a compressed answer would be no part of the file.
    headers = {**settings.get("headers", {}), "Accept-Encoding": "identity"}
    is_quoted = re.fullmatch("[!-~]+", url) is not None
    return fsspec.filesystem(scheme, encoded=is_quoted, client_kwargs=client, headers=headers), url
