"""Write files atomically, and delete only files of this program.

Only this module deletes or replaces files; ``tests/files/test_owned.py`` reads the code of all
rooms and fails if another module does.

- A file is written under a hidden name beside its path, synced, and moved (``whole_file``).
- A folder is written the same way (``whole_folder``). Until it is moved it belongs to this process,
  and is deleted with its contents on failure.
- Both are locked until they are moved. What a killed process left is not locked, and is deleted
  when the next one first writes to its folder.
- Any other folder is deleted only if the names of all its files are those of this program
  (``remove_folder``). A single foreign file or link prevents it.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

import xxhash

from files.locks import lock, locked, unlock
from files.marks import LENGTH, mark_of

UNFINISHED = re.compile(r"\.[0-9a-f]{16}\.[0-9a-f]{8}\.tmp")  # names made by `hidden`

ABANDONED = 24 * 3600.0  # seconds without a change, on a disk without locks
_CLEARED: set[str] = set()  # folders without leftovers of earlier processes

Known = Callable[[str], bool]  # whether a path below a folder is a file of this program


class NotOursError(ValueError):
    """Refusal to delete something that this program did not write."""


class MovedError(OSError):
    """Refusal to write to a folder that is no longer the one that this process locked."""


# -------------------------------------------------------------------------------------- the places

_PLACES: dict[str, os.stat_result] = {}  # folders that this process has locked, when it did


def hold_place(folder: Path) -> None:
    """Refuse from now on to write to another folder that takes the place of this one."""
    _PLACES[os.path.abspath(folder)] = folder.stat()


def free_place(folder: Path) -> None:
    """Forget a folder of ``hold_place``."""
    _PLACES.pop(os.path.abspath(folder), None)


def refuse_moved(path: Path) -> None:
    """Raise if a path lies in a folder of ``hold_place`` that was moved or replaced.

    Raises:
        MovedError: It was.
    """
    absolute = Path(os.path.abspath(path))
    for folder, status in _PLACES.items():
        if not absolute.is_relative_to(folder):
            continue
        try:
            is_moved = not os.path.samestat(os.stat(folder), status)
        except FileNotFoundError:
            is_moved = True
        if is_moved:
            raise MovedError(
                f"the folder {folder} was moved or deleted while this process wrote to it, so "
                "nothing more is written: move it back and start the same command again"
            )


# ------------------------------------------------------------------------------------------- names


def hidden(path: Path) -> Path:
    """Return an unused hidden path beside a path, which listings of images and clips skip."""
    return path.with_name(f".{_short(path)}.{uuid.uuid4().hex[:8]}.tmp")


def _short(path: Path) -> str:
    # A hash, because the longest valid names leave no room for more characters.
    return xxhash.xxh3_64_hexdigest(os.fsencode(path.name))


# ----------------------------------------------------------------------------------------- writing


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
    if str(path.parent) not in _CLEARED:
        remove_unfinished(path.parent)
        _CLEARED.add(str(path.parent))
    with _naming(path):
        file = _begun(path)
    beside = Path(file.name)
    try:
        with _naming(path), file:
            yield file
            file.flush()
            os.fsync(file.fileno())  # a power cut must not leave the name without the content
            if before is not None:
                before()
            put_in_place(beside, path)
    finally:
        beside.unlink(missing_ok=True)


def _begun(path: Path) -> BinaryIO:
    while True:
        file = hidden(path).open("x+b")
        lock(file.fileno())
        if os.path.exists(file.name):  # else it was taken for a leftover, before it was locked
            return file
        file.close()


def write_whole(path: Path, content: str | bytes) -> None:
    """Write a file atomically. Arguments and errors as in ``whole_file``."""
    with whole_file(path) as file:
        file.write(content.encode() if isinstance(content, str) else content)


@contextlib.contextmanager
def whole_folder(
    path: Path, before: Callable[[], None] | None = None, known: Known = lambda name: False
) -> Iterator[Path]:
    """Make a folder that appears at ``path`` when complete.

    Args:
        path: The folder. At the end it must be missing or empty.
        before: Called when all is written, before it appears at ``path``.
        known: As in ``foreign``, for what a killed process left.

    Yields:
        The temporary folder to write to.

    Raises:
        OSError: ``path`` exists and is not an empty folder, or the disk fails.
    """
    refuse_moved(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    remove_leftovers(path, known)
    beside = hidden(path)
    beside.mkdir()  # fails if it exists, so it belongs to this process
    descriptor = os.open(beside, os.O_RDONLY)
    lock(descriptor)
    beside.mkdir(exist_ok=True)  # it was taken for a leftover, before it was locked
    try:
        yield beside
        if before is not None:
            before()
        os.replace(beside, path)
    finally:
        if os.path.lexists(beside):
            shutil.rmtree(beside, ignore_errors=True)
        os.close(descriptor)


def put_in_place(part: Path, path: Path) -> None:
    """Move a complete file of this program to its path.

    Args:
        part: The file, synced.
        path: Its path. An existing file is replaced.

    Raises:
        IsADirectoryError: ``path`` is a folder.
    """
    refuse_moved(path)
    os.replace(part, path)


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


@contextlib.contextmanager
def _naming(path: Path) -> Iterator[None]:
    # Errors of a full disk do not name the file.
    try:
        yield
    except OSError as error:
        if error.errno is not None and error.filename is None:
            error.filename = str(path)
        raise


# ---------------------------------------------------------------------------------------- deleting


def remove_file(path: Path) -> None:
    """Delete a file that this program wrote, if it exists; a link is deleted, not its target.

    Raises:
        IsADirectoryError: It is a folder.
        NotOursError: As for ``refuse_foreign``.
    """
    refuse_foreign(path)
    path.unlink(missing_ok=True)


def foreign(folder: Path, known: Known) -> list[str]:
    """Return the contents of a folder that this program did not write, as paths below it.

    Args:
        folder: The folder.
        known: Whether a path below it is a file of this program. Links never are.
    """
    if folder.is_symlink():
        return ["."]
    others = []
    for parent, folders, files in os.walk(folder, onerror=_raise):
        for name in (*folders, *files):
            path = Path(parent, name)
            relative = path.relative_to(folder).as_posix()
            is_ours = name in folders or known(relative)
            if path.is_symlink() or not is_ours:
                others.append(relative)
    return sorted(others)


def remove_folder(folder: Path, known: Known) -> None:
    """Delete a folder that contains only files of this program.

    It is renamed first, and then its files are deleted one by one.

    Args:
        folder: The folder.
        known: As in ``foreign``.

    Raises:
        NotOursError: It contains something else; nothing is deleted.
    """
    others = foreign(folder, known)
    if others:
        more = f" and {len(others) - 1} more" if len(others) > 1 else ""
        raise NotOursError(
            f"{folder} holds {others[0]}{more}, which Enlarger did not write: move it away"
        )
    aside = folder if UNFINISHED.fullmatch(folder.name) else hidden(folder)
    if aside != folder:
        folder.rename(aside)
    for parent, folders, files in os.walk(aside, topdown=False, onerror=_raise):
        for name in files:
            path = Path(parent, name)
            if known(path.relative_to(aside).as_posix()):
                path.unlink()
        for name in folders:
            os.rmdir(Path(parent, name))
    os.rmdir(aside)


def remove_temporary(folder: Path) -> None:
    """Delete a folder that this process made for itself, with all that it holds; never raises."""
    shutil.rmtree(folder, ignore_errors=True)


def remove_unfinished(folder: Path, deep: bool = False) -> None:
    """Delete the unfinished files that killed processes left in a folder.

    Args:
        folder: The folder.
        deep: Also in the folders below.
    """
    for parent, folders, files in os.walk(folder):
        for name in files:
            path = Path(parent, name)
            if _is_unfinished(name) and path.is_file() and not path.is_symlink():
                _remove_abandoned(path, remove_file)
        if not deep:
            folders.clear()


def remove_leftovers(path: Path, known: Known) -> None:
    """Delete the unfinished folders of a path that killed processes left.

    Args:
        path: The folder that was being written.
        known: As in ``foreign``.
    """

    def remove(leftover: Path) -> None:
        with contextlib.suppress(NotOursError):  # it contains something else: keep it
            remove_folder(leftover, lambda name: known(name) or _is_unfinished(name))

    for leftover in sorted(path.parent.glob(f".{_short(path)}.*.tmp")):
        if _is_unfinished(leftover.name) and leftover.is_dir() and not leftover.is_symlink():
            _remove_abandoned(leftover, remove)


def _remove_abandoned(path: Path, remove: Callable[[Path], None]) -> None:
    """Remove an unfinished file or folder to which no process writes; errors keep it."""
    with contextlib.suppress(OSError):  # it is gone meanwhile, or another user's
        try:
            descriptor = locked(path)
        except OSError:  # a disk without locks
            if time.time() - path.stat().st_mtime > ABANDONED:
                remove(path)
            return
        if descriptor is not None:
            try:
                remove(path)
            finally:
                unlock(descriptor)


def remove_empty(folder: Path) -> None:
    """Delete an empty folder that this program made.

    Raises:
        OSError: It is not empty.
    """
    folder.rmdir()


def _is_unfinished(name: str) -> bool:
    return UNFINISHED.fullmatch(name.rpartition("/")[2]) is not None


def move_aside(path: Path, word: str | None = None) -> Path:
    """Rename a file or folder to keep it, and return its new path.

    Args:
        path: The file or folder.
        word: Suffix of the new name; by default the time.
    """
    suffix = word or time.strftime("%Y%m%d-%H%M%S")
    number = 0
    while True:
        aside = path.with_name(f"{path.name}.{suffix}-{number}")
        if not os.path.lexists(aside):  # a rename would replace an empty folder
            path.rename(aside)
            return aside
        number += 1


def _raise(error: OSError) -> None:
    raise error
