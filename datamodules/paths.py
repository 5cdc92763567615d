"""Paths as a user writes them in YAML, and the picture files that lie below them."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterable, Iterator
from glob import glob
from pathlib import Path

from datamodules.decode import IMAGE_EXTENSIONS

log = logging.getLogger(__name__)

# What shipped configurations expect to find; said when a variable is not set.
BELONGS_THERE = {
    "ENLARGER_DATA": "the folder of image sets (set5, set14, kodak24, ...)",
    "ENLARGER_WEIGHTS": "the folder of published weights (imdn-x2.pth, ...)",
}
VARIABLE = re.compile(r"\$(?:(\w+)|\{(\w+)\})")


def expand_path(path: str, what: str) -> str:
    """Replace ``$NAME``, ``${NAME}`` and a leading ``~`` of a path.

    Args:
        path: As it was written, e.g. ``$ENLARGER_DATA/set5``.
        what: Where it was written, for the message, e.g. ``Benchmark.root``.

    Raises:
        ValueError: The path is empty, or a variable is not set; the message says what belongs
            there.
    """
    if not path.strip():
        raise ValueError(f"{what} is empty; it should hold a path")
    for match in VARIABLE.finditer(path):
        variable = match[1] or match[2]
        if not os.environ.get(variable):
            content = BELONGS_THERE.get(
                variable, f"the part of the path that ${variable} stands for"
            )
            raise ValueError(
                f"{what} is {path!r}, but the environment variable {variable} is not set; it "
                f"should hold {content}: export {variable}=/path/to/it, or write another path"
            )
    return str(Path(os.path.expandvars(path)).expanduser())


def is_image(path: Path) -> bool:
    """Whether the name is that of a picture; hidden files (``._1.jpg`` of a Mac) are none."""
    return path.suffix.lower() in IMAGE_EXTENSIONS and not path.name.startswith(".")


def list_images(root: Path, recursive: bool = True) -> list[Path]:
    """All picture files below a folder, sorted; folders behind links are followed, once each.

    Args:
        root: An existing folder.
        recursive: Also look into its subfolders.
    """
    found, others, seen = [], 0, set()
    for folder, below, names in os.walk(root, followlinks=True):
        real = os.path.realpath(folder)
        if real in seen:
            below.clear()  # a link that leads back would never end
            continue
        seen.add(real)
        # Of two ways to a folder the first in order counts, not the first that the disk names: keys
        # would differ from one copy of the set to the next.
        below[:] = sorted(name for name in below if recursive and not name.startswith("."))
        files = [Path(folder, name) for name in names]
        found += [path for path in files if is_image(path)]
        others += sum(not is_image(path) for path in files)
    if others:
        log.info("%s: left out %d files that are no pictures by their name", root, others)
    return sorted(found, key=lambda path: path.relative_to(root).as_posix())


def image_key(path: Path, root: Path) -> str:
    """Name of a picture: its path below ``root`` without the extension, with ``/`` everywhere."""
    return path.relative_to(root).with_suffix("").as_posix()


def images_of(pattern: str, recursive: bool = True, root: str = "") -> Iterator[tuple[str, Path]]:
    """Keys and paths of the pictures that a path stands for, which has no variables any more.

    Args:
        pattern: A folder (keys are relative to it), a file (its key is its name), or a pattern with
            ``* ? [ ]`` and ``**`` (keys are relative to the part before the first of these).
        recursive: Whether a folder is searched below its first level.
        root: Where a relative pattern starts; ``*`` and the like in it mean nothing.
    """
    path = Path(root, pattern)
    if path.is_dir():
        yield from ((image_key(found, path), found) for found in list_images(path, recursive))
    elif path.exists():
        yield path.stem, path
    else:
        start = Path(root, _fixed_part(pattern))
        matches = glob(pattern, root_dir=root or None, recursive=True)
        found = [Path(root, match) for match in matches]
        yield from ((image_key(f, start), f) for f in found if f.is_file() and is_image(f))


def searched_folder(pattern: str, root: str = "") -> Path | None:
    """The folder that ``images_of`` would search; None of a file, which is named. Args as there."""
    path = Path(root, pattern)
    if path.is_dir():
        return path
    return None if path.exists() else Path(root, _fixed_part(pattern))


def size_and_time(path: str) -> tuple[int, int] | None:
    """Bytes of a file and when it was changed, in nanoseconds; None where it cannot be told."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_size, found.st_mtime_ns


def has_wildcard(pattern: str) -> bool:
    """Whether a path stands for several."""
    return any(character in pattern for character in "*?[")


def _fixed_part(pattern: str) -> Path:
    parts = Path(pattern).parts
    for number, part in enumerate(parts):
        if has_wildcard(part):
            return Path(*parts[:number])
    return Path(pattern).parent


def by_key(pictures: Iterable[tuple[str, Path]], what: str) -> dict[str, Path]:
    """Pictures in the order of their keys.

    Args:
        pictures: Keys and paths; the same file may come twice.
        what: Where they were asked for, for the message.

    Raises:
        ValueError: Two files have one key; both are named.
    """
    found: dict[str, Path] = {}
    for key, path in pictures:
        other = found.setdefault(key, path)
        if other != path:
            raise ValueError(
                f"{what}: {other} and {path} would both have the key {key!r}, and keys must be "
                "unique: rename or move one of them"
            )
    return dict(sorted(found.items()))
