"""Files of reference features: safe to share, whole or absent, of one protocol each."""

from __future__ import annotations

import contextlib
import json
import os
import re
import time
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import xxhash
from numpy.typing import NDArray

from callbacks.tensorboard import MetricProtocol
from degradations.draws import CODING
from files.owned import whole_file, write_whole

VERSION = 1
HEADER = "enlarger reference"
SETTLED = 2 * 10**9  # nanoseconds: the coarsest that a disk's times are, those of FAT


class Reference(NamedTuple):
    """Features of a set of pictures.

    features: (N, ...) float32, one entry a picture.
    name: Of the set, for readers.
    content: Hash of the pictures' names and bytes.
    pictures: How they were prepared: ``as they are``, or cropped.
    protocol: What the features depend on.
    """

    features: NDArray[np.float32]
    name: str
    content: str
    pictures: str
    protocol: MetricProtocol


def save_reference(path: Path, reference: Reference) -> None:
    """Write a file, whole or not at all; its folder is made."""
    about = {
        "kind": HEADER,
        "version": VERSION,
        "digest": _digest(reference.features),
        **{key: getattr(reference, key) for key in ("name", "content", "pictures", "protocol")},
    }
    with whole_file(path) as file:
        np.savez(file, features=reference.features, about=np.array(json.dumps(about)))


def load_reference(path: Path) -> Reference:
    """Read a file that ``save_reference`` wrote, here or elsewhere. Nothing in it is executed.

    Raises:
        ValueError: It is damaged, or something else.
    """
    mend = "make it again by `python -m callbacks.reference IMAGES`"
    try:
        with np.load(path, allow_pickle=False) as content:
            features, about = content["features"], json.loads(str(content["about"]))
        if (about["kind"], about["version"]) != (HEADER, VERSION):
            raise ValueError(f"it is {about['kind']!r} of version {about['version']}")
        fields = {key: about[key] for key in ("name", "content", "pictures", "protocol")}
        if _digest(features) != about["digest"]:
            raise ValueError("its features are not those that were written")
    except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path} is no file of reference features ({error}); {mend}") from error
    return Reference(features, **fields)


def check_protocol(path: Path, reference: Reference, wanted: Mapping[str, Any]) -> None:
    """Compare what a file's features depend on with what a metric computes.

    Raises:
        ValueError: They differ; the message says in what.
    """
    found = reference.protocol
    names = [n for n in {**found, **wanted} if found.get(n) != wanted.get(n)]
    if names:
        there = ", ".join(f"{name} {found.get(name)!r}" for name in names)
        here = ", ".join(f"{name} {wanted.get(name)!r}" for name in names)
        raise ValueError(
            f"{path} was made under another protocol: it has {there}; the metric here has {here}. "
            "Numbers of both must not be compared: make the reference again by "
            "`python -m callbacks.reference`, or set the metric's arguments as they were"
        )


def content_hash(pictures: Iterable[tuple[str, Path]]) -> str:
    """A hash of names and bytes, wherever the files lie."""
    whole = xxhash.xxh3_128()
    for name, path in sorted(pictures):
        part = xxhash.xxh3_128()
        with path.open("rb") as file:
            while piece := file.read(1 << 20):
                part.update(piece)
        whole.update(f"{len(name)} {name} {part.hexdigest()} ".encode(*CODING))
    return whole.hexdigest()


def place_of_hash(pictures: Mapping[str, Path], folder: Path) -> Path | None:
    """Where the ``content_hash`` of files is kept while their paths, sizes and times are as now.

    Args:
        pictures: The files by name.
        folder: In which all hashes are kept.

    Returns:
        The place, or None where a file is so young that its time would not tell of a change.
    """
    listing, newest = xxhash.xxh3_128(), 0
    for name, path in sorted(pictures.items()):
        found = path.stat()
        newest = max(newest, found.st_mtime_ns)
        parts = (name, os.path.abspath(path), found.st_size, found.st_mtime_ns)
        listing.update("\0".join(map(str, (*parts, ""))).encode(*CODING))
    if newest > time.time_ns() - SETTLED:
        return None
    return folder / f"{listing.hexdigest()}.content"


def load_hash(place: Path | None) -> str | None:
    """The hash that is kept there; None where there is none, or something else."""
    try:
        text = "" if place is None else place.read_text("ascii")
    except (OSError, ValueError):
        return None
    return text if re.fullmatch("[0-9a-f]{32}", text) else None


def save_hash(place: Path | None, content: str) -> None:
    """Keep a hash, where that is possible: without it the files are only read once more."""
    if place is None:
        return
    with contextlib.suppress(OSError):
        write_whole(place, content)


def protocol_hash(*parts: Any) -> str:
    """A short hash of what a file's features depend on, for its name."""
    return xxhash.xxh3_64_hexdigest(json.dumps(parts, sort_keys=True).encode())


def _digest(features: NDArray[Any]) -> str:
    shape = f"{features.dtype.str} {features.shape} ".encode()
    return xxhash.xxh3_128_hexdigest(shape + np.ascontiguousarray(features).tobytes())
