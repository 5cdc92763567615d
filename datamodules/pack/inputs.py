"""Inputs of the packer: folders, lists and tars."""

from __future__ import annotations

import hashlib
import logging
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from datamodules.files.pairs import match_pairs
from datamodules.files.paths import braced, images_of, read_lines
from datamodules.files.roles import SUFFIXES, roles_of, texts_beside
from datamodules.pack.places import Entry, File, Place, TarMember
from datamodules.pack.shard_set import Refused
from datamodules.shards.index import build_index, split_name
from files.paths import (
    by_key,
    expand_path,
    glob_paths,
    image_key,
    is_image,
    shard_key,
    size_and_time,
    unique,
)

log = logging.getLogger(__name__)
EXPECTED = ", ".join(sorted(SUFFIXES))
SIZED = re.compile(r"(.+?)\s+\(\d+(?:\s*,\s*\d+){1,2}\)(?:\s+\d+)?")  # BasicSR's meta_info


class Inputs(NamedTuple):
    """The inputs in the order of packing, and those that were refused by name."""

    entries: list[Entry]
    refused: list[Refused]

    def digest(self) -> str:
        """Return the hash of the keys and of their members' places and sizes."""
        digest = hashlib.blake2b(digest_size=16)
        for entry in self.entries:
            members = [
                f"{suffix}={_place_and_size(place)}" for suffix, place in entry.members.items()
            ]
            line = "\0".join([entry.key, *members])
            digest.update(line.encode(errors="surrogateescape") + b"\n")
        return digest.hexdigest()


def _place_and_size(place: Place) -> str:
    """Return where a member is, and its size, by which most files that were replaced are noticed.

    Times of modification would notice more, but the copies of a set do not share them.
    """
    if isinstance(place, TarMember):
        return f"{place.where}\0{place.offset}\0{place.size}"
    state = size_and_time(place.where)
    return place.where if state is None else f"{place.where}\0{state[0]}"


def find_inputs(source: str, lr: str | None = None, lr_suffix: str = "") -> Inputs:
    """List what to pack. Only names and sizes are read.

    Args:
        source: A folder, a pattern of images, a text file of paths, or tars.
        lr: The LR images of ``source``, in the same forms except tars.
        lr_suffix: Suffix of an LR key after the HR's key.

    Raises:
        ValueError: If there are no images, keys are not unique, or HR and LR do not match.
    """
    refused: list[Refused] = []
    if lr is None and is_tars(source):
        return _checked_inputs(_entries_of_tars(source), refused, source)
    large = _list_images(source, "SOURCE", refused)
    if lr is None:
        entries = [Entry(key, {_extension(file): File(str(file))}) for key, file in large.items()]
    else:
        small = _list_images(lr, "--lr", refused)
        entries = []
        for key, (hr_file, lr_file) in match_pairs(large, small, (source, lr), lr_suffix).items():
            hr_suffix, small_suffix = f"hr.{_extension(hr_file)}", f"lr.{_extension(lr_file)}"
            members: dict[str, Place] = {hr_suffix: File(str(hr_file))}
            members[small_suffix] = File(str(lr_file))
            entries.append(Entry(key, members))
    return _checked_inputs(_with_texts(entries), refused, source)


def _extension(path: Path) -> str:
    """Return the ending of a file's name in lower case, without its dot."""
    return path.suffix.lower().removeprefix(".")


def _with_texts(entries: list[Entry]) -> Iterator[Entry]:
    """Yield inputs with the texts beside their HR files as members."""
    files = [Path(entry.where) for entry in entries]
    for entry, texts in zip(entries, texts_beside(files), strict=True):
        members = {suffix: File(path) for suffix, path in texts.items()}
        yield Entry(entry.key, {**entry.members, **members})


def _list_images(source: str, argument: str, refused: list[Refused]) -> dict[str, Path]:
    """Return the images of a folder, a pattern or a list by key."""
    path = Path(expand_path(source, argument))
    if path.is_file() and not is_image(path):
        return _read_list(path, argument, refused)
    return by_key(images_of(str(path)), argument)


def _read_list(path: Path, argument: str, refused: list[Refused]) -> dict[str, Path]:
    """Return the images that a text file names, in its order, by key.

    A line is a path, or a path and its size as in BasicSR (``a.png (480,480,3)``).

    Raises:
        ValueError: If the file is no text, or two images have one key.
    """
    expected = "a folder, a pattern of images, a list of paths, or, as SOURCE alone, tars"
    folder = Path(os.path.abspath(path.parent))
    images: dict[Path, None] = {}
    for number, line in enumerate(read_lines(path, argument, expected), start=1):
        comment = line.startswith("#") and not (folder / line).is_file()
        if not line or comment:
            continue
        sized = SIZED.fullmatch(line)
        image = Path(os.path.abspath(folder / (sized[1] if sized else line)))
        if is_image(image):
            images[image] = None
        else:
            message = (
                f"{path}, line {number}: {image}: not the name of an image; expected one of "
                f"{EXPECTED}"
            )
            refused.append(Refused(str(image), "unsupported", message))
    root = folder
    if not all(image.is_relative_to(root) for image in images):
        root = Path(os.path.commonpath([image.parent for image in images]))
    return unique(((image_key(image, root), image) for image in images), argument)


# ------------------------------------------------------------------------------------------ of tars
def is_tars(source: str) -> bool:
    """Return whether a source is a tar, or a pattern of tars."""
    return source.lower().endswith((".tar", ".tar}", ".tar.gz", ".tgz"))


def _entries_of_tars(source: str) -> Iterator[Entry]:
    """Yield the samples of tars, whose members are read when they are packed."""
    for path in _tar_files(source):
        index = build_index(path)
        for key, members in zip(index.keys, index.members, strict=True):
            places: dict[str, Place] = {
                suffix: TarMember(str(path), f"{key}.{suffix}", member.offset, member.size)
                for suffix, member in members.items()
            }
            yield Entry(key, places)


def _tar_files(source: str) -> Iterator[Path]:
    """Yield the files of ``{000..099}`` and ``*`` in the name of tars."""
    for pattern in braced(expand_path(source, "SOURCE")):
        files = [pattern] if Path(pattern).is_file() else glob_paths(pattern)
        if not files:
            raise ValueError(f"SOURCE {source!r}: {pattern} does not exist, or matches no tar")
        yield from map(Path, files)


# --------------------------------------------------------------------------------------------- keys
def _checked_inputs(entries: Iterable[Entry], refused: list[Refused], source: str) -> Inputs:
    """Return the inputs under the keys that they get in a tar.

    Inputs are added to ``refused`` if a tar cannot hold their names, or its readers would refuse
    their samples.

    Raises:
        ValueError: If two inputs would have one key, or there are none.
    """
    entry_by_key: dict[str, Entry] = {}
    dotted = []
    for entry in entries:
        key = shard_key(entry.key)
        problem = _why_not_a_key(key)
        if problem:
            message = f"{entry.where!r}: its key {key!r} {problem}; rename it"
            refused.append(Refused(key, "unsafe name", message))
            continue
        if key != entry.key:
            dotted.append(entry.key)
        other = entry_by_key.setdefault(key, entry)
        if other is not entry:
            raise ValueError(
                f"two images would have the key {key!r}, in which _ replaces dots ({other.where} "
                f"and {entry.where}): rename one, or pack tars that all count from 0 one by one"
            )
    if dotted:
        log.info("%d keys had dots, which were replaced by _: %s, ...", len(dotted), dotted[0])
    if not entry_by_key and not refused:
        raise ValueError(
            f"SOURCE {source!r} has no images, or does not exist; expected a folder of images "
            f"({EXPECTED}), a pattern, a list of paths, or tars as 'folder/*.tar'"
        )
    renamed = [Entry(key, entry.members) for key, entry in entry_by_key.items()]
    return Inputs(_with_clear_roles(renamed, refused), refused)


def _with_clear_roles(entries: list[Entry], refused: list[Refused]) -> list[Entry]:
    """Return the inputs whose samples the readers of shards accept; add others to ``refused``."""
    readable: list[tuple[Entry, dict[str, str]]] = []
    for entry in entries:
        roles = roles_of(tuple(entry.members))
        if roles.problem is None:
            readable.append((entry, roles.members))
        else:
            refused.append(Refused(entry.key, "unclear roles", f"{entry.where}: {roles.problem}"))
    if any("lr" in roles for _, roles in readable):
        message = "it has no LR, but others do: training needs one for all images, or for none"
        alone = [entry for entry, roles in readable if "hr" in roles and "lr" not in roles]
        refused += [Refused(entry.key, "no LR", f"{entry.where}: {message}") for entry in alone]
        readable = [
            (entry, roles) for entry, roles in readable if "lr" in roles or "hr" not in roles
        ]
    return [entry for entry, _ in readable]


def _why_not_a_key(key: str) -> str | None:
    """Return why a name cannot be a key, or None."""
    if key.startswith("/") or ".." in PurePosixPath(key).parts:
        return "leads out of the folder"
    if not key.isprintable():  # nor are the surrogates of a name that is not UTF-8
        return "has unprintable characters"
    if split_name(f"{key}.x") != (key, "x"):
        return "is one that readers of shards skip or shorten"
    return None
