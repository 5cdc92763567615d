"""Trying again: what is worth another attempt, how long to wait, and what to say in the end."""

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
PASSING = frozenset({408, 416, 425, 429})  # of HTTP's 4xx, those that another attempt may mend
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
    """Something remote could not be read; the message names it, the attempts, the cause, the mend.

    Args:
        message: The sentence for the user.
        kind: ``missing``, ``denied``, ``unreachable``, ``content`` (it answers, but not with the
            bytes that were expected) or ``setup`` (a package is missing here).
    """

    def __init__(self, message: str, kind: str = "unreachable") -> None:
        super().__init__(message)
        self.kind = kind

    def __reduce__(self) -> tuple[type[RemoteError], tuple[str, str]]:
        return RemoteError, (str(self), self.kind)  # workers send their errors to the trainer


class WrongContent(ValueError):  # noqa: N818  (it says what the content is)
    """A remote file gave other bytes than those that were expected; another attempt may mend it."""


@dataclass(frozen=True)
class Patience:
    """How long to try.

    Args:
        retries: Further attempts after a failed one without any progress.
        deadline: Seconds without progress after which no further attempt is made.
        stall: Seconds without a byte after which a connection counts as failed.
    """

    retries: int = 8
    deadline: float = 300.0
    stall: float = 30.0


class Attempts:
    """The attempts at one thing.

    Args:
        url: What is to be read.
        patience: How long to try.
    """

    def __init__(self, url: str, patience: Patience) -> None:
        self.url, self.patience = url, patience
        self.progress()

    def progress(self) -> None:
        """Start to count anew: something was read."""
        self.count, self._began = 0, time.monotonic()

    def failed(self, error: Exception) -> None:
        """Wait for the next attempt.

        Args:
            error: What happened.

        Raises:
            RemoteError: There is to be no further one.
            OSError: ``error`` itself, if the disk is full here.
        """
        if isinstance(error, RemoteError) or getattr(error, "errno", None) in FULL:
            raise error
        self.count += 1
        _refuse(error, self.url)
        waited = time.monotonic() - self._began
        pause = min(FIRST_PAUSE * 2 ** (self.count - 1), LONGEST_PAUSE)
        # Processes that failed together should not come back together.
        pause *= (1 + seed_of(self.url, self.count, os.getpid()) / 2**63) / 2
        if self.count > self.patience.retries or waited + pause > self.patience.deadline:
            wrong = isinstance(error, WrongContent)
            mend = "get or pack the file again" if wrong else "check the address and the network"
            raise RemoteError(
                f"{shown(self.url)} could not be read: {self.count} attempts in {waited:.0f} s, "
                f"the last ended with {_cause(error)}; {mend}, or raise Shards.retries "
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
    """What ``action`` returns, in the first attempt that succeeds.

    Raises:
        RemoteError: None did.
    """
    attempts = Attempts(url, patience)
    while True:
        try:
            return action()
        except Exception as error:  # clients raise errors of a hundred classes
            attempts.failed(error)


def shown(url: str) -> str:
    """An address without what may be secret in it: the query (of signed addresses), a password."""
    if url.startswith("pipe:"):
        return url
    address, query, _ = url.partition("?")
    return re.sub(r"//[^/@]+@", "//", address) + ("?..." if query else "")


def _refuse(error: Exception, url: str) -> None:
    """Raise what no further attempt can mend."""
    scheme = url.partition(":")[0].lower()
    true = _true(error)
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
        mend = CREDENTIALS.get(scheme, "this address needs a login, or a signed address")
        raise RemoteError(
            f"{shown(url)} may not be read without other credentials ({_cause(true)}): {mend}",
            "denied",
        ) from error
    if isinstance(true, FileNotFoundError) or status in (404, 410):
        raise RemoteError(
            f"{shown(url)} does not exist ({_cause(true)}): correct Shards.urls, or put it there",
            "missing",
        ) from error
    if status is not None and 400 <= status < 500 and status not in PASSING:
        raise RemoteError(
            f"{shown(url)} is refused ({_cause(true)}): correct Shards.urls"
        ) from error


def _true(error: BaseException) -> BaseException:
    # fsspec's HTTP calls everything FileNotFoundError in some of its methods.
    return error.__cause__ or error if isinstance(error, FileNotFoundError) else error


def _status(error: BaseException) -> int | None:
    status = str(getattr(error, "status", None) or getattr(error, "code", None))
    return int(status) if status.isdigit() else None


def _cause(error: BaseException) -> str:
    error = _true(error)
    status, text = _status(error), str(error).strip()
    if status is not None:  # aiohttp's text holds the whole address
        return f"HTTP status {status} {getattr(error, 'message', '')}".strip()
    text = re.sub(r"\?\S+", "?...", text.splitlines()[0]) if text else ""
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
