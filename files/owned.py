"""Write files whole, and delete only what this program wrote.

This is the only module that deletes or replaces anything on a disk; ``tests/files/test_owned.py``
reads the code of all rooms and fails where another module does.

- A file is written under a hidden name beside its place, synced, and moved there (``whole_file``).
- A folder is written in the same way (``whole_folder``). Until it is moved it is this process's
  own, and is deleted with all that it holds if something fails.
- Any other folder is deleted only if everything in it is known by name as the program's own
  (``remove_folder``). One file of somebody else's, or one link, and nothing is deleted.
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

UNFINISHED = re.compile(r"\.[0-9a-f]{16}\.[0-9a-f]{8}\.tmp")  # names that `hidden` gives

Known = Callable[[str], bool]  # whether a path below a folder is that of a file we wrote


class NotOursError(ValueError):
    """Something was to be deleted that this program did not write."""


# ------------------------------------------------------------------------------------------- names


def hidden(path: Path) -> Path:
    """Return an unused name beside a path, which no listing takes for an image or a clip."""
    return path.with_name(f".{_short(path)}.{uuid.uuid4().hex[:8]}.tmp")


def leftovers(path: Path) -> list[Path]:
    """Return what killed processes left under hidden names of a path."""
    found = path.parent.glob(f".{_short(path)}.*.tmp")
    return sorted(left for left in found if UNFINISHED.fullmatch(left.name))


def _short(path: Path) -> str:
    # A hash: a name that the disk just accepts leaves no room for more characters.
    return xxhash.xxh3_64_hexdigest(os.fsencode(path.name))


# ----------------------------------------------------------------------------------------- writing


@contextlib.contextmanager
def whole_file(path: Path, before: Callable[[], None] | None = None) -> Iterator[BinaryIO]:
    """Open a file that takes the place of ``path`` when it is complete, in one step.

    Args:
        path: The file; its folder is made. If writing fails, what was there stays.
        before: Called when all bytes are on the disk, before they appear at ``path``.

    Yields:
        The open file. Its ``name`` is where the bytes are until then.

    Raises:
        IsADirectoryError: The path is that of a folder.
        OSError: The file cannot be written.
    """
    refuse_folder(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = hidden(path)
    try:
        with _naming(path), beside.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())  # or a power cut may leave the name without the content
        if before is not None:
            before()
        put_in_place(beside, path)
    finally:
        beside.unlink(missing_ok=True)


def write_whole(path: Path, content: str | bytes) -> None:
    """Write a file, complete or not at all. Arguments and errors as of ``whole_file``."""
    with whole_file(path) as file:
        file.write(content.encode() if isinstance(content, str) else content)


@contextlib.contextmanager
def whole_folder(path: Path, before: Callable[[], None] | None = None) -> Iterator[Path]:
    """Make a folder that appears at ``path`` when all of it is written.

    Args:
        path: The folder. Nothing, or an empty folder, may be there at the end.
        before: Called when all is written, before it appears at ``path``.

    Yields:
        Where to write until then.

    Raises:
        OSError: Something else is at ``path``, or the disk fails.
    """
    beside = hidden(path)
    beside.mkdir(parents=True)  # fails if it exists: what is in it is this process's alone
    try:
        yield beside
        if before is not None:
            before()
        os.replace(beside, path)
    finally:
        if os.path.lexists(beside):
            shutil.rmtree(beside, ignore_errors=True)


def put_in_place(part: Path, path: Path) -> None:
    """Move a complete file of this program to its place.

    Args:
        part: The file, synced.
        path: Its place. A file there is replaced.

    Raises:
        IsADirectoryError: A folder is at ``path``.
    """
    refuse_folder(path)
    os.replace(part, path)


def refuse_folder(path: Path) -> None:
    """Raise if a folder lies in the place of a file.

    Raises:
        IsADirectoryError: It does.
    """
    if path.is_dir():
        raise IsADirectoryError(
            f"{path} is a folder, and a file is to be written there: move it away"
        )


def sync_folder(folder: Path) -> None:
    """Sync the names in a folder to the disk; not every file system can."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


@contextlib.contextmanager
def _naming(path: Path) -> Iterator[None]:
    # A full disk does not say which file it has no room for.
    try:
        yield
    except OSError as error:
        if error.errno is not None and error.filename is None:
            error.filename = str(path)
        raise


# ---------------------------------------------------------------------------------------- deleting


def remove_file(path: Path) -> None:
    """Delete one file that this program wrote, if it exists; of a link, only the link.

    Raises:
        NotOursError: It is a folder, of which this program would know the contents.
    """
    if path.is_dir() and not path.is_symlink():
        raise NotOursError(f"{path} is a folder, and only a file of that name would be deleted")
    path.unlink(missing_ok=True)


def foreign(folder: Path, known: Known) -> list[str]:
    """Return what a folder holds that this program did not write, as paths below it.

    Args:
        folder: The folder.
        known: Whether a path below it is that of a file of ours. Links never are.
    """
    if folder.is_symlink():
        return ["."]
    found = []
    for at, folders, files in os.walk(folder, onerror=_raise):
        below = Path(at).relative_to(folder)
        links = [name for name in folders if Path(at, name).is_symlink()]
        found += [(below / name).as_posix() for name in links]
        for name in files:
            path = (below / name).as_posix()
            if Path(at, name).is_symlink() or not known(path):
                found.append(path)
    return sorted(found)


def remove_folder(folder: Path, known: Known) -> None:
    """Delete a folder that holds files of this program alone.

    It disappears in one step, and then its files are deleted one by one.

    Args:
        folder: The folder.
        known: As of ``foreign``.

    Raises:
        NotOursError: Something else is in it; nothing is deleted.
    """
    if others := foreign(folder, known):
        more = f" and {len(others) - 1} more" if len(others) > 1 else ""
        raise NotOursError(
            f"{folder} holds {others[0]}{more}, which Enlarger did not write: move the folder away"
        )
    aside = folder if UNFINISHED.fullmatch(folder.name) else hidden(folder)
    if aside != folder:
        folder.rename(aside)
    for at, folders, files in os.walk(aside, topdown=False, onerror=_raise):
        for name in files:
            if known((Path(at).relative_to(aside) / name).as_posix()):
                os.unlink(Path(at, name))
        for name in folders:
            os.rmdir(Path(at, name))
    os.rmdir(aside)


def remove_leftovers(path: Path, known: Known = lambda name: False) -> None:
    """Delete what killed processes left beside a path that they were writing.

    Args:
        path: The file or folder that was being written.
        known: As of ``foreign``, if it is a folder.
    """
    for left in leftovers(path):
        if left.is_symlink() or not left.is_dir():
            remove_file(left)
        else:
            with contextlib.suppress(NotOursError):  # something else is in it: it stays
                remove_folder(left, lambda name: known(name) or _is_unfinished(name))


def _is_unfinished(name: str) -> bool:
    return UNFINISHED.fullmatch(name.rpartition("/")[2]) is not None


def move_aside(path: Path, word: str | None = None) -> Path:
    """Rename a file or folder, so that nothing of it is lost, and return its path from then on.

    Args:
        path: The file or folder.
        word: What its name ends in from then on; by default the time.
    """
    name = f"{path.name}.{word or time.strftime('%Y%m%d-%H%M%S')}"
    numbers = itertools.count(0 if word else 2)
    aside = path.with_name(f"{name}-{next(numbers)}" if word else name)
    while os.path.lexists(aside):  # a rename would replace an empty folder
        aside = path.with_name(f"{name}-{next(numbers)}")
    path.rename(aside)
    return aside


def _raise(error: OSError) -> None:
    raise error
