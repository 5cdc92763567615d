"""Remote files by fsspec, with retries and readable errors."""

from __future__ import annotations

import errno
import hashlib
import logging
import os
import random
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeVar, cast
from urllib.parse import quote

import fsspec
from fsspec.asyn import AsyncFileSystem

from datamodules.shards.index import checksum_of

log = logging.getLogger(__name__)
FIRST_PAUSE, LONGEST_PAUSE = 0.5, 30.0  # seconds
HTTP = ("http", "https")
SCHEMES = (*HTTP, "s3", "gs")
ADDRESS = re.compile(r"(\w+://)([^/?#]*)(.*)", re.DOTALL)  # scheme, host, and the rest
CHUNK = 4 << 20  # bytes of one request
SMALLEST_CHUNK = 256 << 10  # on a slow link

# Fields that identify a file's version, best first: entity tags differ between mirrors.
STATES = ("Last-Modified", "LastModified", "updated", "mtime", "ETag", "etag", "created")
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
            than expected) or ``setup`` (a package is missing on this host, or the server does not
            say how large the file is).
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
        stall: Seconds after which a request for a part of a file counts as failed.
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
        waited = time.monotonic() - self._began
        pause = min(FIRST_PAUSE * 2 ** (self.count - 1), LONGEST_PAUSE)
        # Jitter, so that processes that failed together do not retry together.
        pause *= random.Random(f"{self.url} {self.count} {os.getpid()}").uniform(0.5, 1)
        problem = _permanent(error, self.policy.owner)
        if problem is None and (
            self.count > self.policy.retries or waited + pause > self.policy.deadline
        ):
            problem = _exhausted(error, self.count, waited)
        if problem is not None:
            kind, message = problem
            raise RemoteError(f"{shown(self.url)} {message}", kind) from error
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


def _permanent(error: Exception, owner: str) -> tuple[str, str] | None:
    """Return kind and message of an error that a retry cannot fix; else None."""
    root = _root_cause(error)
    status = _status(root)
    if isinstance(root, ImportError):
        extras = "pip install -c constraints.txt -e '.[s3]' or '.[gs]'"
        return "setup", f"needs a further package ({root}): {extras}"
    denied = isinstance(root, PermissionError) or status in (401, 403, 407)
    if denied or NO_CREDENTIALS.search(type(root).__name__):
        return "denied", f"requires other credentials ({_cause(root)}): {CREDENTIALS}"
    if isinstance(root, FileNotFoundError) or status in (404, 410):
        return "missing", f"does not exist ({_cause(root)}): correct {owner}.urls, or upload it"
    if status is not None and 400 <= status < 500 and status not in PASSING:
        return "unreachable", f"is refused ({_cause(root)}): correct {owner}.urls"
    return None


def _exhausted(error: Exception, attempts: int, waited: float) -> tuple[str, str]:
    """Return kind and message of an error that retries did not fix."""
    kind, advice = "unreachable", "check the address and the network"
    if isinstance(error, WrongContent):
        kind, advice = "content", "get or pack the file again"
    message = (
        f"could not be read: {attempts} attempts in {waited:.0f} s, the last ended with "
        f"{_cause(error)}; {advice}"
    )
    return kind, message


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


def scheme_of(url: str) -> str:
    """Return ``s3`` for ``s3://bucket/a.tar``, ``pipe`` for a command, "" for a path."""
    scheme, colon, rest = url.partition(":")
    is_address = rest.startswith("//") or scheme.lower() in ("pipe", "file")
    return scheme.lower() if colon and is_address else ""


def look_up(url: str, policy: RetryPolicy) -> Wanted:
    """Return a file with its size and version.

    Raises:
        RemoteError: If it cannot be reached, does not exist, or has no known size.
    """

    def request() -> Wanted:
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

    return persistently(request, url, policy)


def list_urls(pattern: str, policy: RetryPolicy) -> list[str]:
    """Return the sorted addresses that match a pattern with ``*``.

    Raises:
        RemoteError: If the server cannot be reached, or the folder cannot be listed.
    """

    def request() -> list[str]:
        system, path = _system(pattern)
        names = system.glob(path, **_limited(system, policy))
        return sorted(system.unstrip_protocol(name) for name in names)

    return persistently(request, pattern, policy)


def read_small(url: str, policy: RetryPolicy) -> bytes | None:
    """Return a whole file of moderate size; None if it does not exist.

    Raises:
        RemoteError: If it cannot be reached.
    """

    def request() -> bytes:
        system, path = _system(url)
        return cast(bytes, system.cat_file(path, **_limited(system, policy)))

    try:
        return persistently(request, url, policy)
    except RemoteError as error:
        # Object stores answer "forbidden" for a missing file if listing is not allowed.
        if error.kind in ("missing", "denied"):
            return None
        raise


def read_range(url: str, offset: int, size: int, policy: RetryPolicy) -> bytes:
    """Return some bytes of a file; fewer if it ends before.

    Raises:
        RemoteError: If the server cannot be reached.
    """
    if not size:
        return b""
    return persistently(lambda: _part(url, offset, size, policy)[:size], url, policy)


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
    chunk = CHUNK
    with part.open("ab") as file:
        while True:
            try:
                while file.tell() < wanted.size:
                    start = file.tell()
                    file.write(_part(wanted.url, start, min(chunk, wanted.size - start), policy))
                    if stopped():
                        return
                    if file.tell() == start:
                        break  # the server's file ends here
                    if file.tell() > best:
                        best = file.tell()
                        attempts.progress()
                file.flush()
                _verify(part, wanted)
                os.fsync(file.fileno())
                return
            except Exception as error:
                if isinstance(error, WrongContent):
                    file.seek(0)
                    file.truncate()
                if isinstance(error, TimeoutError):
                    chunk = max(chunk // 2, SMALLEST_CHUNK)
                attempts.failed(error)


def _verify(part: Path, wanted: Wanted) -> None:
    size = part.stat().st_size
    checksum = wanted.checksum and checksum_of(part)
    if (size, checksum) != (wanted.size, wanted.checksum):
        raise WrongContent(
            f"it has {size} bytes and the checksum {checksum}; expected {wanted.size} and "
            f"{wanted.checksum}"
        )


# ----------------------------------------------------------------------------------------- requests
def _system(url: str) -> tuple[Any, str]:
    # Requested each time: fsspec caches the instances, and makes new ones after a fork.
    scheme = scheme_of(url)
    if scheme not in HTTP:
        return fsspec.core.url_to_fs(url)
    settings = fsspec.config.conf.get(scheme, {})
    # A signature is of the address as it is written, here and in the answer of a server that
    # redirects. By default yarl and aiohttp quote both again.
    client = {**settings.get("client_kwargs", {}), "requote_redirect_url": False}
    # A part of a compressed answer would be no part of the file.
    headers = {**settings.get("headers", {}), "Accept-Encoding": "identity"}
    system = fsspec.filesystem(scheme, encoded=True, client_kwargs=client, headers=headers)
    return system, _sent(url)


def _sent(url: str) -> str:
    """Return an address with escapes for what no request may hold: spaces and foreign letters."""
    scheme, host, path = cast("re.Match[str]", ADDRESS.fullmatch(url)).groups()
    path = re.sub(r"[^!-~]+", lambda match: quote(match[0]), path)
    return f"{scheme}{host if host.isascii() else host.encode('idna').decode()}{path}"


def _limited(system: Any, policy: RetryPolicy) -> dict[str, float]:
    # Methods of an asynchronous system go through `sync`, which has a limit.
    return {"timeout": policy.stall} if isinstance(system, AsyncFileSystem) else {}


def _part(url: str, start: int, size: int, policy: RetryPolicy) -> bytes:
    """Return ``size`` bytes of a file from ``start`` on, fewer if it ends before.

    All bytes from ``start`` on come from a server that sends whole files only.
    """
    system, path = _system(url)
    try:
        data: bytes = system.cat_file(
            path, start=start, end=start + size, **_limited(system, policy)
        )
    except Exception as error:
        if _status(error) == 416 or "not satisfiable" in str(error):
            return b""
        raise
    return data[start:] if len(data) > size else data
