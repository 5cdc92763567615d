"""Images in an LMDB: BasicSR's with its ``meta_info.txt``, or plain keys to encoded files."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from datamodules.shard_index import METADATA
from files.paths import IMAGE_EXTENSIONS, read_text

DATA, META = "data.mdb", "meta_info.txt"
LINE = re.compile(r"(?P<key>.+?)\.(?P<extension>\w+)\s+\(\d+,\s*\d+,\s*\d+\)\s+\d+")


class Record(NamedTuple):
    """A value of a database."""

    path: str
    key: bytes

    @property
    def where(self) -> str:
        """Name of the database, and the key."""
        return f"{self.path}: {self.key.decode(errors='backslashreplace')}"

    def read(self) -> bytes:
        """Return the value.

        Raises:
            FileNotFoundError: If the database has no such key.
            OSError: If the database is damaged.
        """
        import lmdb

        try:
            with _opened(self.path).begin() as transaction:
                data = transaction.get(self.key)
        except lmdb.Error as error:
            raise OSError(f"{self.where}: {error}") from error
        if data is None:
            raise FileNotFoundError(f"{self.where}: {META} has it, but the database does not")
        return bytes(data)


def is_lmdb(path: Path) -> bool:
    """Return whether a path is the folder or the file of an LMDB."""
    if path.is_dir():
        return (path / DATA).is_file()
    return path.is_file() and path.suffix.lower() in (".lmdb", ".mdb")


def list_records(path: Path) -> Iterator[tuple[str | None, str, Record]]:
    """Iterate over the images of an LMDB, in the order of its ``meta_info.txt`` or of its keys.

    Args:
        path: Its folder, or its file.

    Yields:
        The key without an extension (None if it is not UTF-8), the extension if known, and the
        record.

    Raises:
        ValueError: If it cannot be opened, is truncated or empty, or its ``meta_info.txt`` is
            broken, or the package ``lmdb`` is missing.
    """
    if path.name == DATA:
        path = path.parent
    environment = _environment(path)
    meta = path / META
    if path.is_dir() and meta.is_file():
        yield from _from_meta(meta, str(path))
        return
    import lmdb

    try:
        with environment.begin() as transaction:
            for key in transaction.cursor().iternext(values=False):
                record = Record(str(path), bytes(key))
                try:
                    name = record.key.decode()
                except UnicodeDecodeError:
                    yield None, "", record
                    continue
                if not METADATA.match(name):  # __len__, __keys__
                    stem, dot, extension = name.rpartition(".")
                    known = dot and f".{extension.lower()}" in IMAGE_EXTENSIONS
                    yield (stem, extension.lower(), record) if known else (name, "", record)
    except lmdb.Error as error:
        raise ValueError(_broken(path, error)) from error


def _from_meta(meta: Path, path: str) -> Iterator[tuple[str, str, Record]]:
    try:
        lines = read_text(meta).rstrip("\n").split("\n")
    except ValueError as error:
        raise ValueError(f"{meta} is not UTF-8 text: {error}") from error
    for number, line in enumerate(lines, start=1):
        match = LINE.fullmatch(line.strip())
        if match is None or f".{match['extension'].lower()}" not in IMAGE_EXTENSIONS:
            raise ValueError(
                f"{meta}, line {number}: {line!r}; expected a line of BasicSR such as "
                "'0001_s001.png (480,480,3) 1'. Move the file away to take all keys of the database"
            )
        yield match["key"], match["extension"].lower(), Record(path, match["key"].encode())


def _environment(path: Path) -> Any:
    import_lmdb()
    import lmdb

    try:
        environment = _opened(str(path))
        entries, page = environment.stat()["entries"], environment.stat()["psize"]
        expected = (environment.info()["last_pgno"] + 1) * page
    except lmdb.Error as error:
        raise ValueError(_broken(path, error)) from error
    size = (path / DATA if path.is_dir() else path).stat().st_size
    if size < expected:  # reading pages beyond the end of a mapped file kills the process
        raise ValueError(_broken(path, f"it is truncated at byte {size} of {expected}"))
    if not entries:
        raise ValueError(f"the LMDB {path} has no images: it is empty")
    return environment


def import_lmdb() -> None:
    """Import the optional package.

    Raises:
        ValueError: If it is not installed.
    """
    try:
        import lmdb  # noqa: F401
    except ImportError as error:
        raise ValueError(
            "an LMDB needs the package lmdb, which is not installed: "
            "pip install -c constraints.txt -e '.[lmdb]'"
        ) from error


@lru_cache(maxsize=4)  # a process may open a database only once
def _opened(path: str) -> Any:
    import lmdb

    return lmdb.open(
        path,
        subdir=Path(path).is_dir(),
        readonly=True,
        lock=False,  # its folder may be read-only, and it does not change while it is packed
        readahead=False,
        create=False,
    )


def _broken(path: Path, error: object) -> str:
    return f"{path} is not a readable LMDB ({error}): download or create it again"
