"""Write files atomically, and delete only files of this program.

Only this module deletes or replaces files; ``tests/files/test_owned.py`` reads the code of all
rooms and fails if another module does.

- A file is written under a hidden name beside its path, synced, and moved (``whole_file``). What a
  killed process left under that name is overwritten by the next one that writes the file, and
  ``fit`` removes it from the folder of its checkpoints.
- A folder is written the same way (``whole_folder``).
- A file is deleted by its name alone, which is in a list of what this program wrote.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import shutil
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

import xxhash

from files.locks import free, locked
from files.marks import LENGTH, mark_of


class NotOursError(ValueError):
    """Refusal to replace or delete something that this program did not write."""


class MovedError(OSError):
    """Refusal to write to a folder that is no longer the one that this process locked."""


# -------------------------------------------------------------------------------------- the places

_HELD: dict[str, os.stat_result] = {}  # each folder that this process writes to, as it was then


def hold_place(folder: Path) -> None:
    """From now on, have ``refuse_moved`` fail if another folder takes the place of this one."""
    _HELD[os.path.abspath(folder)] = folder.stat()


def free_place(folder: Path) -> None:
    """Undo ``hold_place`` of a folder."""
    _HELD.pop(os.path.abspath(folder), None)


def refuse_moved(path: Path) -> None:
    """Raise if a path lies in a folder of ``hold_place`` that was moved or replaced since.

    Every function that writes calls it: a user may move a run's folder while the run writes.

    Raises:
        MovedError: It was.
    """
    absolute = Path(os.path.abspath(path))
    for folder, status in list(_HELD.items()):  # another thread may add a folder meanwhile
        if not absolute.is_relative_to(folder):
            continue
        if not os.path.isdir(folder) or not os.path.samestat(os.stat(folder), status):
            raise MovedError(
                f"the folder {folder} was moved or deleted while this process wrote to it, so "
                "nothing more is written: move it back and start the same command again"
            )


# ----------------------------------------------------------------------------------------- writing


_TEMPORARY = re.compile(r"\.([0-9a-f]{16}|[0-9a-f]{32})\.tmp")  # names of ``_open_temporary``


def hidden(path: Path) -> Path:
    """Return the hidden path beside a file where it is written until it is complete."""
    # A hash, because the longest valid names leave no room for more characters.
    return path.with_name(f".{xxhash.xxh3_64_hexdigest(os.fsencode(path.name))}.tmp")


@contextlib.contextmanager
def whole_file(path: Path, before: Callable[[], None] | None = None) -> Iterator[BinaryIO]:
    """Open a file that replaces ``path`` atomically when complete.

    Args:
        path: The file; its folder is made. If writing fails, an existing file is kept.
        before: Called when all bytes are on the disk, before they appear at ``path``.

    Yields:
        The open file. Its ``name`` is the temporary path.

    Raises:
        IsADirectoryError: ``path`` is a folder.
        NotOursError: As for ``refuse_foreign``.
        MovedError: As for ``refuse_moved``.
        OSError: The file cannot be written.
    """
    refuse_foreign(path)
    refuse_moved(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with _naming(path), _open_temporary(path) as file:
        try:
            yield file
            file.flush()
            os.fsync(file.fileno())  # a power cut must not leave the name without the content
            if before is not None:
                before()
            refuse_moved(path)
            os.replace(file.name, path)
        except BaseException:
            Path(file.name).unlink(missing_ok=True)
            raise
        finally:
            free(file.fileno())


@contextlib.contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Name a file in errors of the disk, as in that of a full one, which closing may raise."""
    try:
        yield
    except OSError as error:
        if error.errno is not None and error.filename is None:
            error.filename = str(path)
        raise


def _open_temporary(path: Path) -> BinaryIO:
    """Open an empty temporary file beside a path, which no other process writes.

    It has the hidden name, so that a killed process leaves one file. It has a name of its own if
    another process writes the same file, the hidden one is another user's, or the disk has no
    locks.
    """
    descriptor = None
    with contextlib.suppress(OSError):
        descriptor = locked(hidden(path), os.O_CREAT)
    if descriptor is None:
        return open(path.with_name(f".{uuid.uuid4().hex}.tmp"), "xb")
    file = open(hidden(path), "r+b", opener=lambda *_: descriptor)  # noqa: SIM115
    file.truncate()
    return file


def write_whole(path: Path, content: str | bytes) -> None:
    """Write a file atomically. Arguments and errors as in ``whole_file``."""
    with whole_file(path) as file:
        file.write(content.encode() if isinstance(content, str) else content)


@contextlib.contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """Make a folder that appears at ``path`` when complete.

    Args:
        path: The folder. At the end it must be missing or empty.

    Yields:
        The temporary folder to write to.

    Raises:
        OSError: ``path`` exists and is not an empty folder, or the disk fails.
    """
    refuse_moved(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{uuid.uuid4().hex}.tmp")
    beside.mkdir()  # fails if it exists, so it belongs to this process
    try:
        yield beside
        os.replace(beside, path)
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def refuse_foreign(path: Path, mark: re.Pattern[bytes] | None = None) -> None:
    """Raise if a file that this program writes under a fixed name exists and is a user's.

    An empty file is replaced.

    Args:
        path: The file.
        mark: How a file begins that is ours; by default as of its name.

    Raises:
        NotOursError: It is, or a link, through which nothing is written.
        OSError: It cannot be read.
    """
    mark = mark or mark_of(path.name)
    if mark is None:
        return
    refuse_link(path)
    if not path.is_file():
        return
    with path.open("rb") as file:
        begin = file.read(LENGTH)
    if begin and not mark.match(begin):
        raise NotOursError(
            f"{path} exists, and Enlarger did not write it, but would replace it: move it away"
        )


def refuse_link(path: Path) -> None:
    """Raise if the path of something that this program writes is a link.

    Raises:
        NotOursError: It is.
    """
    if path.is_symlink():
        raise NotOursError(
            f"{path} is a link, and Enlarger would write through it: remove the link"
        )


def sync_folder(folder: Path) -> None:
    """Sync the names in a folder to the disk, if the file system supports it."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


# ---------------------------------------------------------------------------------------- deleting


def remove_file(path: Path) -> None:
    """Delete a file that this program wrote, if it exists; a link is deleted, not its target.

    Raises:
        IsADirectoryError: It is a folder.
        NotOursError: As for ``refuse_foreign``.
    """
    refuse_foreign(path)
    path.unlink(missing_ok=True)


def remove_unfinished(folder: Path) -> None:
    """Delete what killed processes left of files of ``whole_file``.

    Args:
        folder: A folder where no other process writes.
    """
    for path in folder.glob(".*.tmp"):
        if _TEMPORARY.fullmatch(path.name):
            remove_file(path)


def remove_empty(folder: Path) -> None:
    """Delete an empty folder that this program made.

    Raises:
        OSError: It is not empty.
    """
    folder.rmdir()


def move_aside(path: Path, word: str | None = None) -> Path:
    """Rename a file or folder to keep it beside its successor, and return its new path.

    Args:
        path: The file or folder.
        word: Suffix of the new name; by default the time.
    """
    suffix = word or time.strftime("%Y%m%d-%H%M%S")
    for number in itertools.count():
        aside = path.with_name(f"{path.name}.{suffix}-{number}")
        if not os.path.lexists(aside):  # a rename would replace an empty folder
            break
    return path.rename(aside)
