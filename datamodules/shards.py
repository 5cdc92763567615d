"""Pictures in WebDataset tars, read by offset."""

from __future__ import annotations

import json
import logging
import os
import re
from collections import Counter, OrderedDict
from glob import glob
from pathlib import Path
from typing import Any

import numpy as np
from braceexpand import braceexpand
from numpy.typing import NDArray

from datamodules.base import Sample, Source
from datamodules.decode import IMAGE_EXTENSIONS, UnreadableImage, decode
from datamodules.paths import expand_path
from datamodules.shard_index import Member, ShardIndex, load_index
from degradations.base import Degradation

log = logging.getLogger(__name__)

REMOTE = re.compile(r"^(pipe:|[a-z][a-z0-9+.-]*://)", re.IGNORECASE)
SUFFIXES = frozenset(extension.removeprefix(".") for extension in IMAGE_EXTENSIONS)
FIELDS = ("hr", "lr", "txt", "json")
OPEN_FILES = 64  # a process; the order of training looks at 16 shards at a time
Spot = tuple[int, int, int]  # shard, offset, size
ABSENT: Spot = (-1, 0, 0)


class Shards(Source):
    """Samples of WebDataset tars.

    A sample has a picture ``hr.<ext>`` or ``<ext>`` (jpg, png, webp, tif, bmp, gif, avif), and may
    have its LR in ``lr.<ext>``, a caption in ``txt``, and anything in ``json``, which goes to
    ``meta["json"]``. Nothing else of it is read, least of all pickles. Where samples lie is kept in
    ``<shard>.idx.json``, and found again when the shard changes.

    Args:
        urls: Tars: a path, with ``{000..099}`` or ``*`` for several, or a list of these. May hold
            environment variables: ``$ENLARGER_DATA/cifar10/train-*.tar``.
        shard_in_key: Put the shard's name in front of every key: for shards that all number their
            samples from 0.
        index_cache: Folder for the indices of shards whose own folder cannot be written.
        scale: Scale of this source alone, in an evaluation over several scales.
        degradation: Makes the LR of this source alone; by default the run's ``degradation``.
    """

    def __init__(
        self,
        urls: str | list[str],
        shard_in_key: bool = False,
        index_cache: str = "~/.cache/enlarger/shards",
        scale: float | None = None,
        degradation: Degradation | None = None,
    ) -> None:
        super().__init__(scale, degradation)
        self.urls, self.shard_in_key, self.index_cache = urls, shard_in_key, index_cache
        self._shards: list[_Shard] = []
        self._groups: list[int] = []
        self._keys: list[str] = []
        self._spots: dict[str, NDArray[np.int64]] = {}  # field: (samples, 3), shard, offset, size
        self._files = _OpenFiles()

    def prepare(self, scale: float) -> None:
        """Read or make the indices. Args as ``Source.prepare``.

        Raises:
            ValueError: No shard, a broken one, no pictures in them, or two samples with one key.
        """
        cache = Path(expand_path(self.index_cache, "Shards.index_cache"))
        self._shards, self._groups, self._keys = [], [], []
        spots: list[dict[str, Spot]] = []
        for path in list_shards(self.urls):
            index = load_index(path, cache)
            samples = _samples(path, index, len(self._shards))
            prefix = f"{path.name.removesuffix('.tar')}/" if self.shard_in_key else ""
            self._keys += [prefix + key for key, _ in samples]
            spots += [found for _, found in samples]
            self._groups.append(len(samples))
            self._shards.append(_Shard(str(path), index.size, index.mtime_ns))
        self._check()
        self._spots = {
            field: np.array([spot.get(field, ABSENT) for spot in spots], dtype=np.int64)
            for field in FIELDS
            if any(field in spot for spot in spots)
        }
        self._check_lr()

    def _check(self) -> None:
        key, count = Counter(self._keys).most_common(1)[0]
        if count > 1:
            paths = np.repeat([shard.path for shard in self._shards], self._groups)
            where = [path for path, k in zip(paths, self._keys, strict=True) if k == key]
            raise ValueError(
                f"Shards.urls: {count} samples have the key {key!r} (in {', '.join(where[:3])}); "
                "keys must be unique: if each shard counts from 0, set shard_in_key: true"
            )

    def _check_lr(self) -> None:
        absent = self._spots["lr"][:, 0] < 0 if "lr" in self._spots else np.zeros(0, dtype=bool)
        if absent.any():
            raise ValueError(
                f"Shards.urls: {absent.sum()} of {len(absent)} samples have no lr.<ext>, such as "
                f"{self._keys[int(absent.argmax())]!r}; all have to have one, or none"
            )

    @property
    def keys(self) -> list[str]:
        """Key of each sample, as WebDataset has it: its members' name up to the first dot."""
        return self._keys

    @property
    def groups(self) -> list[int]:
        """Number of samples of each shard."""
        return self._groups

    def read(self, index: int) -> Sample:
        """The sample ``keys[index]``.

        Raises:
            UnreadableImage: A picture or a caption is broken.
            ValueError: A shard is not the one that was indexed.
        """
        path = self._shards[int(self._spots["hr"][index, 0])].path
        name = f"{path}: {self._keys[index]}"
        hr = decode(self._bytes("hr", index), name)
        sample = Sample(hr=hr.rgb, meta=hr.meta(path))
        if "lr" in self._spots:
            sample["lr"] = decode(self._bytes("lr", index), f"{name} (lr)").rgb
        try:
            if "txt" in self._spots:
                sample["text"] = self._bytes("txt", index).decode().strip()
            if "json" in self._spots:
                sample["meta"]["json"] = json.loads(self._bytes("json", index) or "null")
        except ValueError as error:  # of UTF-8 or JSON
            raise UnreadableImage(f"{name}: its txt or json is broken: {error}") from error
        return sample

    def _bytes(self, field: str, index: int) -> bytes:
        shard, offset, size = (int(value) for value in self._spots[field][index])
        return self._files.read(self._shards[shard], offset, size) if shard >= 0 else b""


class _Shard:
    """A tar as it was when it was indexed."""

    def __init__(self, path: str, size: int, mtime_ns: int) -> None:
        self.path, self.size, self.mtime_ns = path, size, mtime_ns


class _OpenFiles:
    """Files that are open for reading, the least recently used one closed first.

    ``pread`` has no position to share, so a forked worker may use its parent's files; and a file
    that shrinks gives an error, where a memory map would kill the process.
    """

    def __init__(self) -> None:
        self._open: OrderedDict[str, int] = OrderedDict()

    def __getstate__(self) -> dict[str, Any]:
        return {"_open": OrderedDict()}  # file descriptors mean nothing in another process

    def __del__(self) -> None:
        for descriptor in self._open.values():
            os.close(descriptor)

    def read(self, shard: _Shard, offset: int, size: int) -> bytes:
        descriptor = self._open.get(shard.path)
        if descriptor is None:
            descriptor = self._opened(shard)
        self._open.move_to_end(shard.path)
        data = os.pread(descriptor, size, offset)
        if len(data) != size:
            raise ValueError(f"shard {shard.path} was cut off while it was in use: start again")
        return data

    def _opened(self, shard: _Shard) -> int:
        descriptor = os.open(shard.path, os.O_RDONLY | os.O_CLOEXEC)
        state = os.fstat(descriptor)
        if (state.st_size, state.st_mtime_ns) != (shard.size, shard.mtime_ns):
            os.close(descriptor)
            raise ValueError(f"shard {shard.path} was replaced while it was in use: start again")
        if len(self._open) >= OPEN_FILES:
            os.close(self._open.popitem(last=False)[1])
        self._open[shard.path] = descriptor
        return descriptor


def list_shards(urls: str | list[str]) -> list[Path]:
    """The tars that ``Shards.urls`` stands for: a list keeps its order, a pattern is sorted.

    Raises:
        ValueError: Nothing is there, or it is not a local path.
    """
    found: list[Path] = []
    for url in [urls] if isinstance(urls, str) else urls:
        if REMOTE.match(url):
            raise ValueError(
                f"Shards.urls has {url!r}; only files can be read: download them first"
            )
        path = expand_path(url, "Shards.urls")
        names = [path] if Path(path).exists() else list(braceexpand(path, escape=False))
        missing = []
        for name in names:
            matches = [Path(name)] if Path(name).is_file() else sorted(map(Path, glob(name)))
            matches = [match for match in matches if match.is_file()]
            found += matches
            missing += [] if matches else [name]
        if missing:
            raise ValueError(
                f"Shards.urls {url!r}: {len(missing)} of {len(names)} do not exist or match no "
                f"file: {', '.join(missing[:3])}; expected tars, e.g. /data/train-{{000..099}}.tar"
            )
    if not found:
        raise ValueError("Shards.urls is empty; it should hold the path of at least one tar")
    return found


def _samples(path: Path, index: ShardIndex, shard: int) -> list[tuple[str, dict[str, Spot]]]:
    """Keys and fields of the samples with a picture; the others are counted and reported."""
    samples, others = [], []
    for key, members in zip(index.keys, index.members, strict=True):
        fields = _fields(path, key, members)
        if "hr" in fields:
            samples.append((key, {name: (shard, extent.offset, extent.size) for name, extent in fields.items()}))
        else:
            others.append(f"{key!r} with {', '.join(members)}")
    if not samples:
        raise ValueError(
            f"shard {path}: none of its {len(others)} samples has a picture (the first is "
            f"{others[0]}); expected a member hr.<ext> or <ext>, with an extension out of "
            f"{', '.join(sorted(SUFFIXES))}"
        )
    if others:
        log.warning("%s: left out %d samples without a picture: %s", path, len(others), others[:3])
    return samples


def _fields(path: Path, key: str, members: dict[str, Member]) -> dict[str, Member]:
    fields = {name: extent for name, extent in members.items() if name in ("txt", "json")}
    named = {name: [s for s in members if _is_picture(s, name)] for name in ("hr", "lr")}
    named["hr"] = named["hr"] or [s for s in members if s in SUFFIXES]
    for name, suffixes in named.items():
        if len(suffixes) > 1:
            raise ValueError(f"shard {path}: {key!r} has several {name} pictures: {suffixes}")
        if suffixes:
            fields[name] = members[suffixes[0]]
    return fields


def _is_picture(suffix: str, field: str) -> bool:
    name, _, extension = suffix.partition(".")
    return name == field and extension in SUFFIXES
