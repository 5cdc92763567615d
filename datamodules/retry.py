"""Retries of remote reads: which errors are retried, how long to wait, and the final message."""

from __future__ import annotations

import errno
import logging
import os
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from degradations.draws import seed_of

log = logging.getLogger(__name__)

FIRST_PAUSE, LONGEST_PAUSE = 0.5, 30.0  # seconds
FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
PASSING = frozenset({408, 416, 425, 429})  # HTTP 4xx errors that a retry may fix
NO_CREDENTIALS = re.compile("Credentials|TokenRetrieval|RefreshError|ProfileNotFound")
CREDENTIALS = {
    "s3": "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE; for a public bucket "
    "FSSPEC_S3='{\"anon\": true}'",
    "gs": "set GOOGLE_APPLICATION_CREDENTIALS to a key file; for a public bucket "
    'FSSPEC_GS=\'{"token": "anon"}\'',
}
PACKAGES = {"s3": "s3fs", "gs": "gcsfs"}
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


@dataclass(frozen=True)
class Patience:
    """When to give up on a remote read.

    Args:
        retries: Further attempts after one that failed without progress.
        deadline: Seconds without progress after which no further attempt is made.
        stall: Seconds without a byte after which a connection counts as failed.
    """

    retries: int = 8
    deadline: float = 300.0
    stall: float = 30.0


class Attempts:
    """The attempts at one remote read.

    Args:
        url: Address of the file.
        patience: When to give up.
    """

    def __init__(self, url: str, patience: Patience) -> None:
        self.url, self.patience = url, patience
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
        _raise_permanent(error, self.url)
        waited = time.monotonic() - self._began
        pause = min(FIRST_PAUSE * 2 ** (self.count - 1), LONGEST_PAUSE)
        # Jitter, so that processes that failed together do not retry together.
        pause *= (1 + seed_of(self.url, self.count, os.getpid()) / 2**63) / 2
        if self.count > self.patience.retries or waited + pause > self.patience.deadline:
            wrong = isinstance(error, WrongContent)
            fix = "get or pack the file again" if wrong else "check the address and the network"
            raise RemoteError(
                f"{shown(self.url)} could not be read: {self.count} attempts in {waited:.0f} s, "
                f"the last ended with {_cause(error)}; {fix}, or raise Shards.retries "
                f"({self.patience.retries}) or Shards.deadline ({self.patience.deadline:g} s)",
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


def persistently(action: Callable[[], T], url: str, patience: Patience) -> T:
    """Call ``action`` until it succeeds, and return its result.

    Raises:
        RemoteError: If no attempt succeeds.
    """
    attempts = Attempts(url, patience)
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


def _raise_permanent(error: Exception, url: str) -> None:
    """Raise an error that a retry cannot fix."""
    scheme = url.partition(":")[0].lower()
    true = _root_cause(error)
    status = _status(true)
    if isinstance(true, ImportError):
        package = PACKAGES.get(scheme, "the package for it")
        extra = f"-c constraints.txt -e '.[{scheme}]'" if scheme in PACKAGES else package
        raise RemoteError(
            f"{shown(url)} needs {package}, which is not installed: pip install {extra}", "setup"
        ) from error
    if (
        isinstance(true, PermissionError)
        or status in (401, 403, 407)
        or NO_CREDENTIALS.search(type(true).__name__)
    ):
        fix = CREDENTIALS.get(scheme, "this address needs a login, or a signed address")
        raise RemoteError(
            f"{shown(url)} requires other credentials ({_cause(true)}): {fix}",
            "denied",
        ) from error
    if isinstance(true, FileNotFoundError) or status in (404, 410):
        raise RemoteError(
            f"{shown(url)} does not exist ({_cause(true)}): correct Shards.urls, or upload it",
            "missing",
        ) from error
    if status is not None and 400 <= status < 500 and status not in PASSING:
        raise RemoteError(
            f"{shown(url)} is refused ({_cause(true)}): correct Shards.urls"
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
