"""The images of a set, in blocks: a thousand files, or a tar. Nothing is kept of a block."""

from __future__ import annotations

import logging
import os
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
import xxhash
from numpy.typing import NDArray

from datamodules.parts import sized
from datamodules.shards.cache import DiskCache
from datamodules.shards.index import load_index
from datamodules.shards.reader import Reader, Tar
from datamodules.shards.remote import RetryPolicy, scheme_of
from datamodules.shards.table import table_of
from datamodules.shards.urls import is_remote, list_shards
from degradations.seeds import CODING
from files.paths import (
    existing_part,
    expand_path,
    glob_paths,
    has_wildcard,
    is_image,
    read_bytes,
    walk,
)

log = logging.getLogger(__name__)
BLOCK = 1000  # files
POLICY = RetryPolicy(owner="PATH", settable=False)
INDICES = "~/.cache/enlarger/shards"  # as of `datamodules.Shards`
TARS, TARS_SIZE = "~/.cache/enlarger/tars", 50 << 30


class Place(NamedTuple):
    """The bytes of an image: a file, or some of a tar's.

    name: Its path, or ``tar: key``.
    tar: The tar; None for a file.
    """

    name: str
    tar: Tar | None = None
    offset: int = 0
    size: int = 0
    checksum: int = 0

    def read(self) -> bytes:
        """Return the bytes.

        Raises:
            OSError: If the file cannot be read.
            WrongBytes: If they are not those of the tar's index.
            ValueError: If the tar was changed.
            RemoteError: If a server cannot be reached.
        """
        if self.tar is None:
            return read_bytes(self.name)
        reader = _reader(self.tar.wanted is not None)
        return reader.read(self.tar, self.offset, self.size, self.checksum)


@dataclass(frozen=True)
class Inputs:
    """The images of a set.

    Attributes:
        paths: Folders, files and patterns of images, expanded.
        files: Number of images in them.
        tars: Paths and addresses of tars.
        digest: Hash of all names and sizes in order.
        sums: Hash of the names and sizes in each block of files.
    """

    paths: tuple[str, ...]
    files: int
    tars: tuple[str, ...]
    digest: str
    sums: NDArray[np.uint64]

    def __len__(self) -> int:
        """Return the number of blocks."""
        return len(self.sums) + len(self.tars)

    def blocks(self, numbers: Sequence[int]) -> Iterator[tuple[int, str | list[str]]]:
        """Yield blocks: the number of each, and its tar, or the paths of its files.

        Args:
            numbers: The wanted ones, ascending.

        Raises:
            ValueError: If files were added, removed, renamed or replaced since they were listed.
        """
        found, at = _pieces(_files(self.paths)), 0
        for number in numbers:
            if number >= len(self.sums):
                yield number, self.tars[number - len(self.sums)]
                continue
            names = next(islice(found, number - at, None), [])
            if _sum(names) != self.sums[number]:
                raise ValueError(
                    f"files below {', '.join(self.paths)} were added, removed, renamed or replaced "
                    "while they were measured: measure them again when they no longer change"
                )
            yield number, names
            at = number + 1


def find_inputs(given: Sequence[str]) -> Inputs:
    """Return the images of paths as users write them.

    Args:
        given: Folders of images or of tars, images, patterns, tars and addresses of tars.

    Raises:
        ValueError: If one has no images, or lies in another one.
        RemoteError: If a server cannot be reached.
    """
    paths: list[str] = []
    tars: list[str] = []
    for path in given:
        if _is_tars(path):
            tars += _tars(path)
            continue
        path = expand_path(path, "PATH")
        has_images = next(_files([path]), None) is not None
        if Path(path).is_dir() and _has_tars(path):
            if not has_images:
                tars += _tars(path)
                continue
            log.warning("%s: its tars are left out, as it has images: give them as '*.tar'", path)
        if not has_images:
            raise ValueError(f"PATH {path!r} {_problem(path)}; {EXPECTED}")
        paths.append(path)
    _check_apart(paths, tars)
    whole, sums, files = xxhash.xxh3_128(), array("Q"), 0
    for names in _pieces(_files(paths)):
        sums.append(_sum(names))
        whole.update(sums[-1].to_bytes(8, "little"))
        files += len(names)
    whole.update("\n".join(map(sized, tars)).encode(*CODING))
    return Inputs(tuple(paths), files, tuple(tars), whole.hexdigest(), np.array(sums, np.uint64))


def _pieces(names: Iterator[str]) -> Iterator[list[str]]:
    return iter(lambda: list(islice(names, BLOCK)), [])


def _sum(names: Sequence[str]) -> int:
    return xxhash.xxh3_64_intdigest("\0".join(map(sized, names)).encode(*CODING))


EXPECTED = "expected a folder of images or tars, an image, a pattern in quotation marks, or tars"


def _problem(path: str) -> str:
    if has_wildcard(path) and not os.path.lexists(path):
        return "matches no images"
    return "has no images" if Path(path).exists() else "does not exist"


def _check_apart(paths: Sequence[str], tars: Sequence[str]) -> None:
    """Raise if an image would be counted twice, and be its own duplicate."""
    folders: dict[str, int] = {}
    for number, path in enumerate(paths):
        if Path(path).is_dir():
            folders.setdefault(os.path.realpath(path), number)
    seen: dict[str, int] = {}  # of images and patterns, whose matches are in memory anyway
    for number, path in enumerate(paths):
        is_folder = Path(path).is_dir()
        for name in [path] if is_folder else _files([path]):
            # A link to an image is an image of its own, as in a folder.
            parent, last = os.path.split(os.path.abspath(name))
            real = os.path.realpath(path) if is_folder else f"{os.path.realpath(parent)}/{last}"
            above = (str(one) for one in Path(real).parents)
            outer = next((folders[one] for one in above if one in folders), None)
            if outer is None:
                outer = (folders if is_folder else seen).setdefault(real, number)
            if outer != number:
                how = "lies in" if Path(paths[outer]).is_dir() else "has images of"
                raise ValueError(
                    f"PATH {path!r} {how} {paths[outer]!r}, so its images would be counted twice: "
                    "give one of them"
                )
    real_tars = [tar if is_remote(tar) else os.path.realpath(tar) for tar in tars]
    if len(set(real_tars)) < len(tars):
        twice = next(tar for n, tar in enumerate(tars) if real_tars[n] in real_tars[:n])
        raise ValueError(f"the tar {twice!r} is given twice: give it once")


def _files(paths: Iterable[str]) -> Iterator[str]:
    """Yield the images of paths in an order that depends on their names alone."""
    for path in paths:
        if Path(path).is_dir():
            for folder, _, names in walk(path):
                yield from (str(folder / name) for name in names if is_image(Path(name)))
        elif Path(path).exists():
            yield path
        else:
            yield from (m for m in glob_paths(path) if is_image(Path(m)) and Path(m).is_file())


# --------------------------------------------------------------------------------------------- tars
def _is_tars(path: str) -> bool:
    if scheme_of(path) and not existing_part(path)[0]:
        return True
    return path.lower().endswith((".tar", ".tar}"))


def _has_tars(path: str) -> bool:
    _, _, names = next(walk(path))
    return any(name.endswith(".tar") and name[0] != "." for name in names)


def _tars(path: str) -> list[str]:
    try:
        return list_shards(path, False, POLICY)
    except ValueError as error:
        raise ValueError(str(error).replace("PATH.urls", "PATH")) from error


def places_of(block: str | Sequence[str]) -> list[Place]:
    """Return the images of a block.

    Args:
        block: A tar, or the paths of files.

    Raises:
        ValueError: If the tar is broken, or has no images.
        RemoteError: If a server cannot be reached.
    """
    if not isinstance(block, str):
        return [Place(name) for name in block]
    folder = Path(expand_path(INDICES, "the folder of indices"))
    if is_remote(block):
        # Here, as it imports torch.
        from datamodules.shards.shards import load_remote_index, wanted_of

        wanted = wanted_of(block, POLICY)
        index = load_remote_index(wanted, folder, _cache())
        tar = Tar(block, index.size, wanted=wanted)
    else:
        index = load_index(Path(block), folder)
        tar = Tar(block, index.size, index.mtime_ns)
    table = table_of(tar.name, index)
    images = table.columns["hr"]
    sums = [0] * len(table.keys) if images.checksums is None else images.checksums.tolist()
    rows = zip(table.keys, images.offsets.tolist(), images.sizes.tolist(), sums, strict=True)
    return [Place(f"{tar.name}: {key}", tar, *row) for key, *row in rows]


@lru_cache(maxsize=1)
def _cache() -> DiskCache:
    return DiskCache(Path(expand_path(TARS, "the cache of tars")), TARS_SIZE, POLICY, 0)


@lru_cache(maxsize=2)
def _reader(remote: bool) -> Reader:
    return Reader(_cache() if remote else None)
