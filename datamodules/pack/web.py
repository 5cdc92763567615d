"""Lists of addresses as inputs of the packer: text, CSV or parquet; and how they are fetched.

An input is a row, its key the row's number. Rows are read when they are needed, so that a list may
have any length.
"""

from __future__ import annotations

import csv
import http.client
import json
import random
import re
import time
import urllib.error
import urllib.request
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from email.message import Message
from functools import lru_cache
from itertools import accumulate
from pathlib import Path
from typing import Any, NamedTuple, overload

from datamodules.pack.places import Entry, FetchError, Place, Text
from datamodules.shards.index import checksum_of
from datamodules.shards.remote import (
    HTTP,
    RemoteError,
    RetryPolicy,
    blocks_from,
    persistently,
    scheme_of,
    shown,
)

STORES = ("s3", "gs")
TABLES = (".csv", ".tsv", ".parquet")
ROWS = 1000  # of a text file that are read at once
DIGITS = 9  # of a key
CHUNK = 1 << 16
FIRST_PAUSE, LONGEST_PAUSE = 1.0, 30.0  # seconds
AGENT = "enlarger-pack"
REFUSING = frozenset({"noai", "noimageai", "noindex", "noimageindex", "none"})
DENIED = frozenset({401, 402, 403, 407, 451})
PASSING = frozenset({408, 425, 429})  # HTTP 4xx errors that a retry may fix
# Reasons that may be those of the network or of a store, not of one address.
OUTAGES = frozenset({"server error", "timeout", "unreachable"})


class Fetch(NamedTuple):
    """How addresses are fetched.

    Attributes:
        max_bytes: Files with more are refused.
        timeout: Seconds for one attempt.
        retries: Further attempts after a failure that may pass.
        robots: Whether to refuse images whose server forbids such use (``X-Robots-Tag``).
    """

    max_bytes: int = 100 << 20
    timeout: float = 10.0
    retries: int = 3
    robots: bool = True


class Url(NamedTuple):
    """An address."""

    url: str
    fetch: Fetch

    @property
    def where(self) -> str:
        """The address without secrets."""
        return shown(self.url)

    def read(self) -> bytes:
        """Return the whole file.

        Raises:
            FetchError: If it cannot be fetched.
            ValueError: If an object store does not answer, which is no property of this file.
        """
        scheme = scheme_of(self.url)
        if scheme in HTTP:
            return _persistently(self.url, self.fetch)
        if scheme in STORES:
            return _from_store(self.url, self.fetch)
        raise FetchError("bad address", f"{self.where!r} is not http(s)://, s3:// or gs://")


class Fetched(NamedTuple):
    """An address that was fetched before: its bytes, or the error."""

    where: str
    result: bytes | Exception

    def read(self) -> bytes:
        """Return the bytes, or raise the error."""
        if isinstance(self.result, Exception):
            raise self.result
        return self.result


def fetch_all(threads: int, entries: list[Entry]) -> Iterator[Entry]:
    """Fetch the addresses of some inputs at the same time, and yield them in order.

    Args:
        threads: Number of connections.
        entries: The inputs.
    """
    with ThreadPoolExecutor(threads) as pool:
        yield from pool.map(_fetched, entries)


def _fetched(entry: Entry) -> Entry:
    members = dict(entry.members)
    for suffix, place in members.items():
        if isinstance(place, Url):
            try:
                result: bytes | Exception = place.read()
            except Exception as error:
                result = error
            members[suffix] = Fetched(place.where, result)
    return Entry(entry.key, members)


# --------------------------------------------------------------------------------------------- http
def _persistently(url: str, fetch: Fetch) -> bytes:
    for attempt in range(fetch.retries + 1):
        try:
            return _from_server(url, fetch)
        except FetchError as error:
            if error.reason not in OUTAGES or attempt == fetch.retries:
                raise
        pause = min(FIRST_PAUSE * 2**attempt, LONGEST_PAUSE)
        time.sleep(pause * random.uniform(0.5, 1))  # so that processes do not retry together
    raise AssertionError


def _from_server(url: str, fetch: Fetch) -> bytes:
    end = time.monotonic() + fetch.timeout
    where = shown(url)
    try:
        request = urllib.request.Request(url, headers={"User-Agent": AGENT, "Accept": "image/*"})
        with urllib.request.urlopen(request, timeout=fetch.timeout) as response:
            if fetch.robots and (tag := forbidding(response.headers)):
                raise FetchError("robots", f"{where}: its server forbids this use ({tag})")
            declared = response.headers.get("Content-Length", "")
            if declared.isdecimal() and int(declared) > fetch.max_bytes:
                raise _too_large(where, fetch)
            data = bytearray()
            while chunk := response.read1(CHUNK):
                data += chunk
                if len(data) > fetch.max_bytes:
                    raise _too_large(where, fetch)
                if time.monotonic() > end:
                    raise TimeoutError
            if declared.isdecimal() and len(data) < int(declared):
                raise FetchError("unreachable", f"{where}: the connection ended before the file")
            return bytes(data)
    except urllib.error.HTTPError as error:
        error.close()
        raise _of_status(where, error.code) from error
    except TimeoutError as error:
        raise FetchError("timeout", f"{where}: not there in {fetch.timeout:g} s") from error
    except urllib.error.URLError as error:
        if isinstance(error.reason, TimeoutError):
            raise FetchError("timeout", f"{where}: not there in {fetch.timeout:g} s") from error
        raise FetchError("unreachable", f"{where}: {error.reason}") from error
    except (http.client.InvalidURL, UnicodeError, ValueError) as error:
        raise FetchError("bad address", f"{where!r} is no address: {error}") from error
    except FetchError:
        raise
    except (http.client.HTTPException, OSError) as error:
        text = str(error) or type(error).__name__
        raise FetchError("unreachable", f"{where}: {text}") from error


def _too_large(where: str, fetch: Fetch) -> FetchError:
    return FetchError(
        "too many bytes", f"{where}: more than --max-bytes {fetch.max_bytes / 2**20:g}M"
    )


def _of_status(where: str, status: int) -> FetchError:
    reason = f"HTTP status {status}"
    if status in (404, 410):
        reason = "missing"
    elif status in DENIED:
        reason = "denied"
    elif status >= 500 or status in PASSING:
        reason = "server error"
    return FetchError(reason, f"{where}: HTTP status {status}")


def forbidding(headers: Message) -> str:
    """Return the ``X-Robots-Tag`` that forbids training on an image, or "".

    Directives after the name of another agent (``googlebot: noindex``) are not meant.
    """
    for tag in headers.get_all("X-Robots-Tag") or []:
        agent = "*"
        for part in tag.lower().split(","):
            name, colon, rest = part.partition(":")
            if colon and name.strip() not in ("unavailable_after", "max-snippet"):
                agent, part = name.strip(), rest
            if part.strip() in REFUSING and agent in ("*", AGENT):
                return tag.strip()
    return ""


# ------------------------------------------------------------------------------------ object stores
def _from_store(url: str, fetch: Fetch) -> bytes:
    policy = RetryPolicy(stall=fetch.timeout, settable=False)

    def read() -> bytes:
        data = bytearray()
        for block in blocks_from(url, 0, policy):
            data += block
            if len(data) > fetch.max_bytes:
                raise RemoteError(str(_too_large(shown(url), fetch)), "content")
        return bytes(data)

    try:
        return persistently(read, url, policy)
    except RemoteError as error:
        if error.kind in ("missing", "content"):
            reason = "missing" if error.kind == "missing" else "too many bytes"
            raise FetchError(reason, str(error)) from error
        raise ValueError(
            f"{error}. What is finished stays: the same command goes on when the store is back"
        ) from error


# -------------------------------------------------------------------------------------------- lists
Row = tuple[str, str | None]  # address, caption


def is_table(path: Path) -> bool:
    """Return whether a path is a CSV or parquet file."""
    return path.suffix.lower() in TABLES and path.is_file()


def is_url_list(path: Path) -> bool:
    """Return whether a text file's first line is an address."""
    with path.open("rb") as file:
        first = next((line for line in file if line.strip() and line.strip()[:1] != b"#"), b"")
    return re.match(rb"\s*(https?|s3|gs)://", first, re.IGNORECASE) is not None


class Rows(Sequence[Entry]):
    """The inputs of a list.

    Args:
        path: The list: a text file of addresses, a CSV with a header, or a parquet file.
        column: Column of the addresses.
        caption: Column of the captions, or None.
        fetch: How addresses are fetched.

    Raises:
        ValueError: If it is empty, or has no such column.
    """

    def __init__(self, path: Path, column: str, caption: str | None, fetch: Fetch) -> None:
        self.path, self.column, self.caption, self.fetch = path, column, caption, fetch
        suffix = path.suffix.lower()
        self._table: _Parquet | _Lines = (
            _Parquet(path) if suffix == ".parquet" else _Lines(path, suffix)
        )
        self._columns = [self._found(column)] + ([] if caption is None else [self._found(caption)])
        self._ends = list(accumulate(self._table.counts))
        if not len(self):
            raise ValueError(f"SOURCE {str(path)!r} is an empty list")
        # Two, as slices of workers and of the report alternate.
        self._chunk = lru_cache(maxsize=2)(self._read)

    def _found(self, name: str) -> str:
        names = self._table.names
        for one in (name, *(n for n in names if n.lower() == name.lower())):
            if one in names or not names:
                return one
        raise ValueError(
            f"{self.path} has no column {name!r}, but {', '.join(names)}: name the addresses' "
            "column by --url-column, and the captions' by --captions"
        )

    def __reduce__(self) -> tuple[type[Rows], tuple[Any, ...]]:
        return Rows, (self.path, self.column, self.caption, self.fetch)

    def __len__(self) -> int:
        """Return the number of rows."""
        return self._ends[-1] if self._ends else 0

    @overload
    def __getitem__(self, index: int) -> Entry: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Entry]: ...
    def __getitem__(self, index: int | slice) -> Entry | Sequence[Entry]:
        """Return the input of a row, or those of some."""
        if isinstance(index, slice):
            return [self[number] for number in range(len(self))[index]]
        index = range(len(self))[index]
        chunk = bisect_right(self._ends, index)
        start = self._ends[chunk - 1] if chunk else 0
        url, caption = self._chunk(chunk)[index - start]
        content = {"url": url} if self.caption is None else {"url": url, self.caption: caption}
        about = json.dumps(content, ensure_ascii=False)
        members: dict[str, Place] = {
            "": Url(url, self.fetch),
            "json": Text(about, self.path.name),
        }
        return Entry(f"{index:0{DIGITS}d}", members)

    def digest(self) -> str:
        """Return the hash of the list and of the columns."""
        return f"{checksum_of(self.path)}:{','.join(self._columns)}"

    def _read(self, chunk: int) -> list[Row]:
        columns = self._table.read(chunk, self._columns)
        captions = columns[1] if len(columns) > 1 else [None] * len(columns[0])
        return [
            (str(url or "").strip(), caption if isinstance(caption, str) else None)
            for url, caption in zip(columns[0], captions, strict=True)
        ]


class _Lines:
    """A text file with an address on each line, or a CSV with a header.

    Args:
        path: The file.
        suffix: ``.csv``, ``.tsv``, or another one for plain text.
    """

    def __init__(self, path: Path, suffix: str) -> None:
        self.path = path
        self.delimiter = {".csv": ",", ".tsv": "\t"}.get(suffix)
        self.counts: list[int] = []
        self._starts: list[int] = []
        self.names: list[str] = []
        for number, (start, values) in enumerate(self._rows(0)):
            if number == 0 and self.delimiter:
                self.names = values
            elif not self.counts or self.counts[-1] == ROWS:
                self.counts.append(1)
                self._starts.append(start)
            else:
                self.counts[-1] += 1

    def _rows(self, start: int) -> Iterator[tuple[int, list[str]]]:
        """Yield the start of each row in bytes, and its values."""
        with self.path.open("rb") as file:
            file.seek(start)
            if self.delimiter is None:
                for line in iter(file.readline, b""):
                    text = _decoded(line, start).strip()
                    if text and not text.startswith("#"):
                        yield start, [text]
                    start = file.tell()
                return
            lines = (_decoded(line, start) for line in iter(file.readline, b""))
            try:
                for values in csv.reader(lines, delimiter=self.delimiter):
                    if len(values) > 1 or "".join(values).strip():
                        yield start, values
                    start = file.tell()
            except csv.Error as error:
                raise ValueError(
                    f"{self.path} is no readable table after byte {start} ({error}): a value with "
                    "a quotation mark at its start needs another one at its end"
                ) from error

    def read(self, chunk: int, columns: list[str]) -> list[list[Any]]:
        """Return some columns of a chunk of rows."""
        rows = self._rows(self._starts[chunk])
        some = [values for _, (_, values) in zip(range(self.counts[chunk]), rows, strict=False)]
        if not self.delimiter:
            return [[values[0] for values in some], *([None] * len(some) for _ in columns[1:])]
        found = [dict(zip(self.names, values, strict=False)) for values in some]
        return [[row.get(name) for row in found] for name in columns]


def _decoded(line: bytes, start: int) -> str:
    return line.decode("utf-8-sig" if start == 0 else "utf-8", errors="replace")


class _Parquet:
    """A parquet file.

    Args:
        path: The file.

    Raises:
        ValueError: If it is damaged, or pyarrow is missing.
    """

    def __init__(self, path: Path) -> None:
        try:
            import pyarrow.parquet
        except ImportError as error:
            raise ValueError(
                f"{path} needs the package pyarrow, which is not installed: "
                "pip install -c constraints.txt -e '.[parquet]'"
            ) from error
        try:
            self._file = pyarrow.parquet.ParquetFile(path)
        except (OSError, ValueError) as error:  # pyarrow's errors are ValueErrors
            raise ValueError(f"{path} is no readable parquet file: {error}") from error
        about = self._file.metadata
        self.names: list[str] = self._file.schema_arrow.names
        self.counts = [about.row_group(n).num_rows for n in range(about.num_row_groups)]

    def read(self, chunk: int, columns: list[str]) -> list[list[Any]]:
        """Return some columns of a row group."""
        table = self._file.read_row_group(chunk, columns=list(dict.fromkeys(columns)))
        return [table.column(name).to_pylist() for name in columns]
