"""Shards: the Source over tars that are read by offset, local or remote."""

from __future__ import annotations

import gc
import io
import logging
import os
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from itertools import accumulate
from pathlib import Path
from typing import Any

import webdataset
from webdataset.filters import FilterFunction

from datamodules.files.pairs import refuse_mixed
from datamodules.files.paths import parse_bytes
from datamodules.order.keys import first_duplicate
from datamodules.shards.cache import ShardCache
from datamodules.shards.index import (
    Member,
    ShardIndex,
    build_index,
    load_index,
    parse_index,
    read_index,
    store_index,
)
from datamodules.shards.reader import Reader, Tar
from datamodules.shards.remote import RemoteError, RemoteShard, hide_secrets, look_up, read_small
from datamodules.shards.sample import Raw, add_text, decode_sample, raw_of
from datamodules.shards.table import Table, join_tables, table_of
from datamodules.shards.urls import is_remote, list_shards
from datamodules.source import Sample, Source
from files.images.decode import UnreadableImage, decode, most_pixels, read_size
from files.images.deep import Pixels
from files.images.jpeg import read_rows
from files.numbers import NonNegativeInt
from files.owned import remove_file
from files.paths import expand_path

log = logging.getLogger(__name__)


AT_ONCE = 16  # parallel requests to servers
INDICES = 64  # shards whose members the stages are given are kept by name
WHOLE = ("hr", "lr", "txt", "text_features", "json")  # fields that a sample is made of


@contextmanager
def without_gc() -> Iterator[None]:
    """Pause the garbage collector, which takes longer than reading the indices of many samples."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def load_remote_index(shard: RemoteShard, folder: Path, cache: ShardCache) -> ShardIndex:
    """Return the index of a remote shard: stored here, beside the shard, or made and stored here.

    Args:
        shard: The shard.
        folder: Folder of stored indices.
        cache: Holds the shard if its index must be made.

    Raises:
        RemoteError: If it cannot be downloaded.
        ValueError: If the shard is broken, or cannot be kept.
    """
    place = folder / f"{shard.name}.idx.json"
    index = read_index(place)
    if index is not None and shard.size == index.size:
        return index
    index = _download_index(shard) or _index_of_download(shard, cache)
    store_index(index, [place])
    return index


def _download_index(shard: RemoteShard) -> ShardIndex | None:
    """Return the index that lies beside a shard on its server; None if there is none of it."""
    address, question, query = shard.url.partition("?")
    url = f"{address}.idx.json{question}{query}"
    try:
        index = parse_index(read_small(url), hide_secrets(url))
    except RemoteError as error:
        log.info("the index of %s is made here: %s", hide_secrets(shard.url), error)
        return None
    return index if index is not None and index.size == shard.size else None


def _index_of_download(shard: RemoteShard, cache: ShardCache) -> ShardIndex:
    """Download a shard and index it."""
    path = cache.fetch(shard)
    if path is None:
        name = hide_secrets(shard.url)
        raise ValueError(
            f"{name} has no index beside it, and does not fit into {cache.folder} to make one: put "
            f"{name}.idx.json there, or raise Shards.cache_size ({cache.limit} bytes)"
        )
    try:
        index = build_index(path, examine=True)
    except ValueError as error:
        remove_file(path)  # it is in our cache, and would be found there at the next start
        raise ValueError(str(error).replace(str(path), hide_secrets(shard.url))) from error
    # Without sizes, images are decoded whole. These were never decoded, unlike those of `pack`,
    # and a crop whose lower rows are not decoded would hide damage.
    sizeless = [
        {suffix: member._replace(height=0, width=0) for suffix, member in members.items()}
        for members in index.members
    ]
    return replace(index, members=sizeless)


class Shards(Source):
    """Samples of WebDataset tars.

    A sample has an image ``hr.<ext>`` or ``<ext>`` (jpg, png, webp, tif, bmp, gif, avif), and may
    have its LR in ``lr.<ext>``, a caption in ``txt``, ``caption`` or ``<ext>.txt``, its features
    from a text encoder in ``text_features.npy``, and any ``json``, which becomes ``meta["json"]``.
    All samples have an LR, or none; a missing caption is empty. Other images are left out with a
    warning; other members, such as pickles, are never read. The places of samples are stored in
    ``<shard>.idx.json``, which is made again when the shard changes. If that index has checksums,
    every member is verified when it is read.

    Args:
        urls: Tars: a path or an address (``file:``, ``http(s)://``, ``s3://``, ``gs://``), with
            ``{000..099}`` or ``*`` for several, or a list of these. May contain environment
            variables: ``$ENLARGER_DATA/cifar10/train-*.tar``.
        shard_in_key: Prefix every key with the shard's name, for shards that all number their
            samples from 0.
        index_cache: Folder for the indices of shards in folders that are not writable.
        cache_dir: Cache folder for remote shards; all processes of a node should share it.
        cache_size: Largest size of that cache in bytes, such as ``500M`` or ``50G``; the least
            recently used shards are removed first.
        read_ahead: Number of remote shards that are downloaded ahead at a time; 0 for none.
        stages: Your own functions of a webdataset sample, in this order, such as
            ``my.module.stage``: each gets a dict of ``__key__``, ``__url__`` and all members by
            suffix, as bytes or as an earlier stage left them, and returns such a dict, or None to
            leave the sample out. webdataset's filters (``webdataset.decode("rgb8")``) work, too.

    Examples:
        >>> from datamodules import Shards
        >>> shards = Shards("my/shards/{000..001}.tar")
        >>> shards.prepare(scale=4)
        >>> shards.read(0)["hr"].shape
        (48, 64, 3)
    """

    def __init__(
        self,
        urls: str | list[str],
        shard_in_key: bool = False,
        index_cache: str = "~/.cache/enlarger/shards",
        cache_dir: str = "~/.cache/enlarger/tars",
        cache_size: str | int = "50G",
        read_ahead: NonNegativeInt = 2,
        stages: list[Callable[[dict[str, Any]], Any]] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.urls, self.shard_in_key, self.index_cache = urls, shard_in_key, index_cache
        self.cache_dir = cache_dir
        self.cache_size = parse_bytes(cache_size, "Shards.cache_size")
        self.read_ahead, self.stages = read_ahead, stages or []
        self._reader = Reader()
        self._tars: list[Tar] = []
        self._table = join_tables([])
        self._ends: list[int] = []  # cumulative number of samples at the end of each shard
        self._folder = Path()  # of the indices
        # For stages: the members by suffix, by key, by the path of the latest shards.
        self._members_of_shards: dict[str, dict[str, dict[str, Member]]] = {}

    def prepare(self, scale: float) -> None:
        """Read or make the indices. Args as ``Source.prepare``.

        Raises:
            ValueError: If there is no shard, a broken one, no image, or two samples with one key.
            RemoteError: If a server cannot be reached, or refuses.
        """
        self._folder = Path(expand_path(self.index_cache, "Shards.index_cache"))
        names = list_shards(self.urls, "Shards.urls")
        cache = self._make_cache() if any(map(is_remote, names)) else None
        with without_gc():
            if cache is None:  # for local shards, threads would be slower
                parts = [self._open_shard(name, None) for name in names]
            else:
                with ThreadPoolExecutor(AT_ONCE) as pool:
                    parts = list(pool.map(lambda name: self._open_shard(name, cache), names))
            table = join_tables(part for _, part in parts)
        key = first_duplicate(table.keys)
        if key is not None:
            tars = [tar.name for tar, part in parts if key in part.keys]
            raise ValueError(
                f"Shards.urls: {table.keys.count(key)} samples have the key {key!r} (in "
                f"{', '.join(tars[:3])}); keys must be unique: list each tar once, and if each "
                "counts from 0, set shard_in_key: true"
            )
        table.check_lr("Shards.urls")
        for note in table.notes:
            log.warning(note)
        without = len(table.samples_without("txt"))
        if without:
            share = f"{without} of {len(table.keys)}"
            log.warning("Shards.urls: %s samples have no txt; their caption is empty", share)
        self._tars = [tar for tar, _ in parts]
        self._table = table
        self._ends = list(accumulate(table.counts))
        self._members_of_shards.clear()
        self._reader.close()
        self._reader = Reader(cache)
        if "hr" in table.columns:
            refuse_mixed("Shards.urls", table.keys, self.image_size, scale)

    def _make_cache(self) -> ShardCache:
        """Return the cache of remote shards."""
        folder = Path(expand_path(self.cache_dir, "Shards.cache_dir"))
        return ShardCache(folder, self.cache_size, self.read_ahead)

    def _open_shard(self, name: str, cache: ShardCache | None) -> tuple[Tar, Table]:
        """Return a shard and its samples."""
        if not is_remote(name):
            state = os.stat(name)
            tar = Tar(name, state.st_size, state.st_mtime_ns)
            return tar, self._table_of_shard(tar, cache)
        remote = look_up(name)
        tar = Tar(name, remote.size, remote=remote)
        return tar, self._table_of_shard(tar, cache)

    def _table_of_shard(self, tar: Tar, cache: ShardCache | None) -> Table:
        """Return the samples of a shard that have an image."""
        return table_of(tar.name, self._load_index(tar, cache), self._key_prefix(tar))

    def _key_prefix(self, tar: Tar) -> str:
        """Return what the keys of a shard's samples begin with: its name, or nothing."""
        name = tar.name.partition("?")[0].rpartition("/")[2].removesuffix(".tar")
        return f"{name}/" if self.shard_in_key else ""

    def _load_index(self, tar: Tar, cache: ShardCache | None) -> ShardIndex:
        """Return the index of a shard, which is made if there is none."""
        if tar.remote is None or cache is None:
            return load_index(Path(tar.path), self._folder)
        return load_remote_index(tar.remote, self._folder, cache)

    @property
    def keys(self) -> list[str]:
        """Key of each sample, as in WebDataset: its members' name up to the first dot."""
        return self._table.keys

    @property
    def groups(self) -> list[int]:
        """Number of samples of each shard."""
        return self._table.counts

    def size(self, index: int) -> tuple[int, int] | None:
        """Return (H, W) of the image, if the index has it."""
        if "lr" in self._table.columns or self.stages:
            return None
        image = self._table.place("hr", index)
        return (image.height, image.width) if image.height and image.width else None

    def path(self, index: int) -> str:
        """Return the tar of the sample ``keys[index]``, or its address without a password."""
        return self._tar_of_sample(index).name

    def image_size(self, index: int) -> tuple[int, int]:
        """Return (W, H) of an HR image from the index or its header, also with LR beside it."""
        image = self._table.place("hr", index)
        if image.height and image.width:
            return image.width, image.height
        data = self._read_field("hr", self._tar_of_sample(index), index, self._table.keys[index])
        return read_size(io.BytesIO(data))

    def upcoming(self, groups: Sequence[int]) -> None:
        """Fetch remote shards in the background. Args as ``Source.upcoming``."""
        remote = [tar.remote for tar in (self._tars[group] for group in groups) if tar.remote]
        if self._reader.cache is not None:
            self._reader.cache.read_ahead(remote)

    def read(self, index: int) -> Sample:
        """Return the sample ``keys[index]``.

        Raises:
            UnreadableImage: If an image or a caption is broken, or its checksum differs; or a stage
                leaves it out.
            ValueError: If a shard changed after it was indexed.
            RemoteError: If a server cannot be reached.
        """
        raw = self._run_stages(index) if self.stages else self._read_raw(index, WHOLE)
        return decode_sample(raw, self.srgb)

    def _read_raw(self, index: int, fields: Sequence[str]) -> Raw:
        """Return the bytes of some fields of a sample."""
        tar, key = self._tar_of_sample(index), self._table.keys[index]
        members = {}
        for field in fields:
            if field in self._table.columns:
                name = f"{tar.name}: {key}" if field == "hr" else f"{tar.name}: {key} ({field})"
                members[field] = self._read_field(field, tar, index, name)
        return Raw(tar.name, key, members)

    def _run_stages(self, index: int) -> Raw:
        """Read a sample with all its members, and return what ``stages`` make of it.

        Raises:
            UnreadableImage: If a stage leaves it out.
        """
        tar, key = self._tar_of_sample(index), self._table.keys[index]
        sample: dict[str, Any] = {"__key__": key, "__url__": tar.path}
        for suffix, member in self._members_by_sample(tar)[key].items():
            sample[suffix] = self._reader.read(tar, member, f"{tar.name}: {key}.{suffix}")
        stages = [s if isinstance(s, FilterFunction) else webdataset.map(s) for s in self.stages]
        result = next(iter(webdataset.DataPipeline([[sample]], *stages)), None)
        raw = None if result is None else raw_of(result)
        if raw is None:
            raise UnreadableImage(f"{tar.name}: {key}: left out by Shards.stages", "left out")
        return raw

    def read_crop(self, index: int, top: int, left: int, height: int, width: int) -> Sample:
        """Return a part of the image; of a JPEG, rows below it are not decoded.

        Args and errors as ``Source.read_crop`` and ``read``.
        """
        if "lr" in self._table.columns or self.stages:
            return super().read_crop(index, top, left, height, width)
        raw = self._read_raw(index, WHOLE)
        data, name = raw.fields["hr"], f"{raw.shard}: {raw.key}"
        # Only if the file is known to be intact: damage looks like the rows that are left out.
        intact = self._table.place("hr", index).checksum
        rows: Pixels | None = read_rows(data, top + height, most_pixels()) if intact else None
        if rows is None:
            rows = decode(data, name, self.srgb).rgb
        part = rows[top : top + height, left : left + width]
        sample = Sample(hr=part, meta={"path": raw.shard})
        add_text(sample, raw)
        return sample

    def _tar_of_sample(self, index: int) -> Tar:
        """Return the shard of the sample ``keys[index]``."""
        return self._tars[bisect_right(self._ends, index)]

    def _read_field(self, field: str, tar: Tar, index: int, name: str) -> bytes:
        """Return the bytes of a field of a sample; none if the sample lacks it."""
        place = self._table.place(field, index)
        return self._reader.read(tar, place, name) if place.offset else b""

    def _members_by_sample(self, tar: Tar) -> dict[str, dict[str, Member]]:
        """Return the members of each sample of a shard by suffix, also those without a role."""
        if tar.path not in self._members_of_shards:
            index = self._load_index(tar, self._reader.cache)
            keys = [f"{self._key_prefix(tar)}{key}" for key in index.keys]
            self._members_of_shards[tar.path] = dict(zip(keys, index.members, strict=True))
            if len(self._members_of_shards) > INDICES:
                del self._members_of_shards[next(iter(self._members_of_shards))]
        return self._members_of_shards[tar.path]
