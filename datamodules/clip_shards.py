"""Clips in WebDataset tars, read by offset.

A WebDataset sample is all members whose names agree up to the first dot. A clip is either a sample
whose members are its frames, ``name.0001.png``, ``name.0002.png`` and so on, with a caption in
``name.txt``; or, as ``tar`` packs folders of frames, all images of one folder, ``name/0001.png``,
with the first frame's caption (``name/0001.txt``) or one beside the folder (``name.txt``).
"""

from __future__ import annotations

import logging
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np

from datamodules.cache import DiskCache
from datamodules.clips import RecordedClips, Short, in_order
from datamodules.names import Names
from datamodules.remote_index import load_remote_index
from datamodules.shard_index import Member, ShardIndex, load_index
from datamodules.shard_reader import Tar
from datamodules.shard_table import SUFFIXES, Table, table_of
from datamodules.shards import Shards
from datamodules.source import Pixels, Sample

log = logging.getLogger(__name__)


class ClipShards(RecordedClips):
    """Clips of WebDataset tars: samples of several images, ``clip.0001.png``, ``clip.0002.png``.

    Tars of folders, ``clip/0001.png``, are read, too. Frames are ordered by the numbers in their
    names. A caption is ``clip.txt``, or ``clip/0001.txt`` beside the first frame.

    Args:
        urls: Tars: a path or an address (``file:``, ``http(s)://``, ``s3://``, ``gs://``), with
            ``{000..099}`` or ``*`` for several, or a list of these. May contain environment
            variables.
        short: What to do with a clip that has too few frames: ``skip`` it (counted and logged), or
            ``error``.
        shard_in_key: Prefix every key with the shard's name, for shards that all number their clips
            from 0.
        index_cache: Folder for the indices of shards in folders that are not writable.
        cache_dir: Cache folder for remote shards; all processes of a node should share it.
        cache_size: Largest size of that cache in bytes, such as ``500M`` or ``50G``.

    Raises:
        ValueError: If a number is out of range, or ``short`` is unknown.
    """

    def __init__(
        self,
        urls: str | list[str],
        short: Short = "skip",
        shard_in_key: bool = False,
        index_cache: str = "~/.cache/enlarger/shards",
        cache_dir: str = "~/.cache/enlarger/tars",
        cache_size: str | int = "50G",
        **kwargs: Any,
    ) -> None:
        super().__init__(short=short, **kwargs)
        places = {"index_cache": index_cache, "cache_dir": cache_dir, "cache_size": cache_size}
        self._frames = _Frames(urls, shard_in_key, **places)  # type: ignore[arg-type]
        self._keys = Names.of([])
        self._order = np.zeros(0, np.int64)  # numbers of all frames, clip after clip
        self._ends = np.zeros(0, np.int64)  # of each clip in _order
        self._groups: list[int] = []

    def prepare(self, scale: float) -> None:
        """Read or make the indices. Args as ``Source.prepare``.

        Raises:
            ValueError: If there is no shard, a broken one, no frames, or two clips with one key.
            RemoteError: If a server cannot be reached, or refuses.
        """
        self._frames.srgb = self.srgb
        self._frames.prepare(scale)
        keys, start = self._frames.keys, 0
        shards: list[dict[str, list[int]]] = []
        for count in self._frames.groups:
            numbers = range(start, start + count)
            runs = groupby(numbers, lambda number: keys[number].rpartition("/")[0])
            shards.append({})
            for name, run in runs:
                if not name:
                    raise ValueError(
                        f"ClipShards.urls: {keys[next(run)]!r} is an image that belongs to no "
                        "clip; expected frames named clip.0001.png or clip/0001.png (for single "
                        "images use datamodules.shards.Shards)"
                    )
                shards[-1].setdefault(name, []).extend(run)
            start += count
        self._keep(shards)

    def _keep(self, shards: list[dict[str, list[int]]]) -> None:
        counts: dict[str, int] = {}
        for shard in shards:
            for name, numbers in shard.items():
                if name in counts:
                    raise ValueError(
                        f"ClipShards.urls: two shards have frames of the clip {name!r}; a clip lies"
                        " in one shard: pack them again, or set shard_in_key where names repeat"
                    )
                counts[name] = len(numbers)
        long_enough, note = self._long_enough(counts)
        if note:
            log.warning("ClipShards left out: %s", note)
        wanted, name_of = set(long_enough), self._frames.keys
        clips: dict[str, list[int]] = {}
        for shard in shards:
            clips |= {name: numbers for name, numbers in shard.items() if name in wanted}
        ordered = [sorted(n, key=lambda number: in_order(name_of[number])) for n in clips.values()]
        # In arrays, as in Shards, which processes share.
        self._keys = Names.of(clips)
        self._order = np.fromiter((number for n in ordered for number in n), np.int64)
        self._ends = np.cumsum([len(numbers) for numbers in ordered])
        self._groups = [count for shard in shards if (count := len(wanted & shard.keys()))]

    @property
    def keys(self) -> Names:
        """Name of each clip: the beginning of its frames' names."""
        return self._keys

    @property
    def groups(self) -> list[int]:
        """Number of clips of each shard that has any."""
        return self._groups

    def recorded(self, index: int) -> Sequence[int]:
        """As ``RecordedClips.recorded``."""
        start = self._ends[index - 1] if index else 0
        return self._order[start : self._ends[index]].tolist()

    def frame(self, frame: int) -> Pixels:
        """As ``RecordedClips.frame``."""
        return self._frames.read(frame)["hr"]

    def caption(self, index: int) -> str | None:
        """Return the text of the first frame."""
        return self._frames.caption(self.recorded(index)[0])


class _Frames(Shards):
    """Frames as samples of their own, whose keys are ``clip/frame``."""

    def _part(self, tar: Tar, folder: Path, cache: DiskCache | None) -> Table:
        if tar.wanted is None or cache is None:
            index = load_index(Path(tar.path), folder)
        else:
            index = load_remote_index(tar.wanted, folder, cache)
        name = tar.name.partition("?")[0].rpartition("/")[2].removesuffix(".tar")
        return table_of(tar.name, _by_frame(index), f"{name}/" if self.shard_in_key else "")

    def _place(self, tars: Sequence[Tar], folder: Path) -> Path:
        place = super()._place(tars, folder)
        return place.with_name(f"frames-{place.name}")  # not the table of images

    def caption(self, index: int) -> str | None:
        """Return the text beside a frame, if the set has texts."""
        sample, tar = Sample(meta={}), self._tars[bisect_right(self._ends, index)]
        self._add_text(sample, tar, index, f"{tar.name}: {self.keys[index]}")
        return sample.get("text")


def _by_frame(index: ShardIndex) -> ShardIndex:
    """Return the index with each image as a sample of its own."""
    keys: list[str] = []
    members: list[dict[str, Member]] = []
    captions = {
        key: {"txt": sample["txt"] if "txt" in sample else sample["caption"]}
        for key, sample in zip(index.keys, index.members, strict=True)
        if sample.keys() & {"txt", "caption"}
    }
    for key, sample in zip(index.keys, index.members, strict=True):
        text = captions.get(key) or captions.get(key.rpartition("/")[0], {})
        for suffix, member in sample.items():
            frame, _, extension = suffix.rpartition(".")
            if extension in SUFFIXES:
                keys.append(f"{key}/{frame}" if frame else key)
                members.append({extension: member, **text})
    return replace(index, keys=keys, members=members)
