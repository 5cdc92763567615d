"""Files of reference features: safe to share, written atomically, of one protocol each."""

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
SETTLED = 2 * 10**9  # nanoseconds: the coarsest time resolution of a disk, that of FAT


class Reference(NamedTuple):
    """Features of a set of images.

    features: (N, ...) float32, one entry per image.
    name: Name of the set, for readers.
    content: Hash of the images' names and bytes.
    pictures: How they were prepared: ``as they are``, or cropped.
    protocol: What the features depend on.
    """

    features: NDArray[np.float32]
    name: str
    content: str
    pictures: str
    protocol: MetricProtocol


def save_reference(path: Path, reference: Reference) -> None:
    """Write a file atomically; its folder is created."""
    about = {
        "kind": HEADER,
        "version": VERSION,
        "digest": _digest(reference.features),
        **{key: getattr(reference, key) for key in ("name", "content", "pictures", "protocol")},
    }
    with whole_file(path) as file:
        np.savez(file, features=reference.features, about=np.array(json.dumps(about)))


def load_reference(path: Path) -> Reference:
    """Read a file of ``save_reference``. Nothing in it is executed.

    Raises:
        ValueError: If it is damaged, or not such a file.
    """
    fix = "make it again by `python -m callbacks.reference IMAGES`"
    try:
        with np.load(path, allow_pickle=False) as content:
            features, about = content["features"], json.loads(str(content["about"]))
        if (about["kind"], about["version"]) != (HEADER, VERSION):
            raise ValueError(f"it is {about['kind']!r} of version {about['version']}")
        fields = {key: about[key] for key in ("name", "content", "pictures", "protocol")}
        if _digest(features) != about["digest"]:
            raise ValueError("its features are not those that were written")
    except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path} is no file of reference features ({error}); {fix}") from error
    return Reference(features, **fields)


def check_protocol(path: Path, reference: Reference, wanted: Mapping[str, Any]) -> None:
    """Compare what a file's features depend on with what a metric computes.

    Raises:
        ValueError: If they differ; the message names the differences.
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
    """Return a hash of names and bytes, independent of the folder."""
    whole = xxhash.xxh3_128()
    for name, path in sorted(pictures):
        part = xxhash.xxh3_128()
        with path.open("rb") as file:
            while piece := file.read(1 << 20):
                part.update(piece)
        whole.update(f"{len(name)} {name} {part.hexdigest()} ".encode(*CODING))
    return whole.hexdigest()


def hash_file(pictures: Mapping[str, Path], folder: Path) -> Path | None:
    """Return where the ``content_hash`` of files is cached, by their paths, sizes and times.

    Args:
        pictures: The files by name.
        folder: The folder of all hashes.

    Returns:
        The place, or None if a file is so new that a change might not change its time.
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
    """Return the cached hash; None if there is none, or something else."""
    try:
        text = "" if place is None else place.read_text("ascii")
    except (OSError, ValueError):
        return None
    return text if re.fullmatch("[0-9a-f]{32}", text) else None


def save_hash(place: Path | None, content: str) -> None:
    """Cache a hash if possible; without it the files are merely read again."""
    if place is None:
        return
    with contextlib.suppress(OSError):
        write_whole(place, content)


def protocol_hash(*parts: Any) -> str:
    """Return a short hash of the protocol of a file's features, for its name."""
    return xxhash.xxh3_64_hexdigest(json.dumps(parts, sort_keys=True).encode())


def _digest(features: NDArray[Any]) -> str:
    shape = f"{features.dtype.str} {features.shape} ".encode()
    return xxhash.xxh3_128_hexdigest(shape + np.ascontiguousarray(features).tobytes())
