"""Paths, URLs and byte sizes as users write them."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

from braceexpand import braceexpand

from files.paths import (
    existing_part,
    glob_paths,
    image_key,
    images_among,
    list_images,
    read_text,
)


def images_of(pattern: str, root: str = "", videos: bool = False) -> Iterator[tuple[str, Path]]:
    """Iterate over keys and paths of the images of a path, whose variables are expanded already.

    Args:
        pattern: A folder (keys are relative to it), a file (its key is its name), or a pattern with
            ``* ? [ ]`` and ``**`` (keys are relative to its leading part that exists).
        root: Start of a relative pattern; ``*`` and the like in it are literal.
        videos: Whether to include videos.

    Raises:
        ValueError: If a folder cannot be listed.
    """
    path = Path(root, pattern)
    if path.is_dir():
        listed = list_images(path, videos=videos)
        yield from ((image_key(found, path), found) for found in listed)
    elif os.path.lexists(path):  # or a link to nothing, which its reader names
        yield path.stem, path
    else:
        start = Path(root, existing_part(pattern, root)[0])
        matches = [Path(root, match) for match in glob_paths(pattern, root)]
        files = [match for match in matches if not match.is_dir()]
        yield from ((image_key(f, start), f) for f in images_among(files, str(path), videos))


def searched_folder(pattern: str, root: str = "") -> Path | None:
    """Return the folder that ``images_of`` searches, or None for a file. Args as there."""
    path = Path(root, pattern)
    if path.is_dir():
        return path
    return None if os.path.lexists(path) else Path(root, existing_part(pattern, root)[0])


def braced(path: str) -> list[str]:
    """Expand ``{000..099}`` in a path that does not exist as written."""
    head, rest = existing_part(path)
    if not rest:
        return [head]
    return [os.path.join(head, name) for name in braceexpand(rest, escape=False)]


def read_lines(path: Path, what: str, expected: str) -> list[str]:
    """Return the lines of a user's text file, without surrounding space.

    Args:
        path: The file, in UTF-8.
        what: The key that named it, for the message.
        expected: What the key may name, for the message.

    Raises:
        ValueError: If it is not UTF-8.
    """
    try:
        text = read_text(path)
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{what} {str(path)!r} is not text ({error}); expected {expected}"
        ) from error
    # Not splitlines, which also splits at characters that names and captions may contain.
    return [line.strip() for line in text.removesuffix("\n").split("\n")]


UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}


def parse_bytes(text: str | int, what: str) -> int:
    """Parse a number of bytes such as ``50G``.

    Args:
        text: A number, optionally with a unit (K, M, G, T; powers of 1024).
        what: The key that was set, for the message.

    Raises:
        ValueError: If it is not such a number.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]?)(?:i?B)?", str(text).strip(), re.IGNORECASE)
    if match is None:
        raise ValueError(f"{what} is {text!r}; expected a number of bytes such as 500M or 50G")
    return int(float(match[1]) * UNITS[match[2].upper()])
