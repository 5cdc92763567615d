"""Read tars from front to back with webdataset's pipeline, as a Source for training."""

from __future__ import annotations

import itertools
import logging
import math
import os
import tarfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import numpy as np
import webdataset
from torch.utils.data import get_worker_info
from webdataset.gopen import Pipe
from webdataset.tariterators import group_by_keys, tar_file_expander

from datamodules.order.plan import Item, Plan, checked_plan
from datamodules.order.shuffle import Integers
from datamodules.samples import Skipped, TrainingImages
from datamodules.shards.index import BLOCK, CHUNK, DAMAGE, split_name
from datamodules.shards.remote import RemoteError, hide_secrets, open_remote, scheme_of
from datamodules.shards.sample import Raw, decode_sample, raw_of, warn_once
from datamodules.shards.urls import list_shards
from datamodules.source import Sample, Source
from degradations.base import Degradation
from degradations.seeds import seed_of
from files.numbers import NonNegativeInt, PositiveFloat, PositiveInt
from files.own_modules import own_environment

log = logging.getLogger(__name__)
# What reading a damaged tar, or none, raises; a damaged size may be more than the memory.
BROKEN = (*DAMAGE, OSError, AssertionError, MemoryError)
SIZE, TYPE = slice(124, 136), slice(156, 157)  # in a header
WITHOUT_CONTENT = frozenset((b"1", b"2", b"3", b"4", b"5", b"6"))  # links, devices, folders


@dataclass(frozen=True)
class StreamPlan(Plan):
    """Lengths and seeds of the epochs. Which sample lies at which place, the tars decide.

    Args:
        shuffle: As in ``Stream``.
    """

    shuffle: int = 0

    @property
    def state(self) -> dict[str, Any]:
        """What fixes the order, in plain types, for a checkpoint."""
        return {**super().state, "shuffle": self.shuffle}

    def batches(self, epoch: int, start: int, rank: int, world: int) -> Iterator[list[Item]]:
        """Iterate over the micro-batches of one process, whose items know where it began.

        Args as ``Plan.batches``.
        """
        if start and rank == 0:
            log.warning(
                "Stream: epoch %d goes on at batch %d of %d, and its other batches are read in a "
                "new order: samples of the first part may come again. To go on exactly, use "
                "datamodules.Shards",
                epoch,
                start,
                len(self),
            )
        for batch in super().batches(epoch, start, rank, world):
            yield [item._replace(entered=start) for item in batch]

    def replacement(self, epoch: int, position: int, attempt: int) -> int:
        """Return a number that is new for each attempt: the next sample of the tars replaces one.

        Args as ``Plan.replacement``.
        """
        return attempt + 1

    def _samples(self, epoch: int, start: int, stop: int) -> Integers:
        """Return zeros: the tars decide which samples these are."""
        return np.zeros(stop - start, dtype=np.int64)


class Stream(Source):
    """Samples of WebDataset tars, read from front to back by webdataset's own pipeline.

    Use it for tars that a server or a command gives only as a whole, and for sets too large to be
    kept or indexed. Wherever ``Shards`` can read the tars, it is the better choice: it shuffles
    better and resumes exactly. For training only.

    Each epoch begins a new pass over the tars in an order of its own. webdataset shuffles the tars,
    deals them to processes and workers, and shuffles their samples. If the pass ends before the
    epoch does, the next pass follows. The order depends on ``seed_everything`` and on the numbers
    of processes and workers. A run that is resumed at the beginning of an epoch reads what the
    uninterrupted run would have read. Within an epoch, it reads the remaining batches in a new
    order.

    A tar that is truncated, damaged or cannot be opened is skipped from there on, logged, and
    counted for ``data.init_args.crops.unreadable_limit``.

    Args:
        samples: Samples of an epoch, over all processes together. An epoch takes each of
            them once if it is the number of all samples, and all workers have equally many, in
            whole batches: it is a multiple of ``batch_size`` times ``workers``.
        urls: Tars: paths, addresses (``http(s)://``, ``s3://``, ``gs://``) or commands
            (``pipe:``), with ``{000..999}`` for several, or a list of these; at least as many as
            processes.
        shuffle: Samples, over all processes together, that are kept undecoded in memory to be
            shuffled. 0 shuffles the tars only.
        scale: Scale of this source alone.
        degradation: Makes the LR of this source alone; by default the run's ``degradation``.
        allow_pipes: Run urls of the form ``pipe:COMMAND``. Commands in a configuration run with
            your rights.
    """

    def __init__(
        self,
        samples: PositiveInt,
        urls: str | list[str],
        shuffle: NonNegativeInt = 1000,
        scale: PositiveFloat | None = None,
        degradation: Degradation | None = None,
        allow_pipes: bool = False,
    ) -> None:
        super().__init__(scale, degradation)
        self.samples, self.urls, self.shuffle = samples, urls, shuffle
        self.allow_pipes = allow_pipes
        self._shards: list[str] = []

    def prepare(self, scale: float) -> None:
        """List the tars. Args as ``Source.prepare``.

        Raises:
            ValueError: If there are none, or some of a kind that is not read.
        """
        self._shards = list_shards(self.urls, "Stream.urls", self.allow_pipes)

    def plan(self, seed: int, batch_size: int, streams: int, repeats: int) -> StreamPlan:
        """Return the lengths and seeds of the epochs. Args as of ``Plan``.

        Raises:
            ValueError: If an epoch has fewer samples than a batch.
        """
        plan = StreamPlan((self.samples,), seed, batch_size, streams, repeats, shuffle=self.shuffle)
        return cast(StreamPlan, checked_plan(plan))

    def workers(self, wanted: int, world: int) -> int:
        """Return how many workers each process may have, so that each has a tar.

        Args:
            wanted: ``data.init_args.workers``.
            world: Number of processes.

        Raises:
            ValueError: If there are fewer tars than processes.
        """
        count = len(self._shards)
        if count < world:
            raise ValueError(
                f"Stream.urls has {count} tars, fewer than the {world} processes among which they "
                "are dealt as whole tars: pack smaller tars, or use fewer processes"
            )
        return min(wanted, count // world)

    @property
    def shards(self) -> list[str]:
        """File names of the tars: what a resumed run must find again."""
        return [hide_secrets(shard).rpartition("/")[2] for shard in self._shards]

    @property
    def keys(self) -> Sequence[str]:
        """Raise, since the keys are unknown.

        Raises:
            ValueError: Always.
        """
        raise ValueError(
            "datamodules.Stream is read from front to back, so it can only be "
            "data.init_args.train itself, and no source of val, test, predict, Mix or Crops: use "
            "datamodules.Shards there"
        )

    def read(self, index: int) -> Sample:
        """Never called, since samples come in the order of their tars, by ``raws``."""
        raise NotImplementedError

    def raws(
        self,
        plan: StreamPlan,
        epoch: int,
        start: int,
        notes: list[Skipped],
        ranks: tuple[int, int] = (0, 1),
    ) -> Iterator[Raw]:
        """Yield the samples of this process, or of this worker of a DataLoader, without an end.

        Args:
            plan: The plan.
            epoch: Number of the epoch.
            start: The batch at which the run entered it.
            notes: The skipped tars are added here.
            ranks: Rank of this process, and number of processes.

        Raises:
            ValueError: If a pass gives no samples, or a tar holds what must not be read.
        """
        has_captions = False  # whether a sample had one
        for number in itertools.count():
            raw = None
            for raw in self._pipeline_of_pass(plan, (epoch, start, number), notes, ranks):
                has_captions = has_captions or "txt" in raw.fields
                if has_captions and "txt" not in raw.fields:
                    example = f"samples without a caption get an empty one: {raw.key}"
                    warn_once("%s: %s", raw.shard, example)
                    raw.fields["txt"] = b""
                yield raw
            if raw is None:
                reason = notes[0].message if notes else "no images in it"
                worker, _ = _worker_and_count()
                raise ValueError(
                    f"Stream.urls: no samples in a pass of worker {worker} of process {ranks[0]} "
                    f"({reason})"
                )

    def _pipeline_of_pass(
        self,
        plan: StreamPlan,
        place: tuple[int, int, int],
        notes: list[Skipped],
        ranks: tuple[int, int],
    ) -> webdataset.DataPipeline:
        """Return webdataset's pipeline of one pass over the tars.

        Args:
            plan: The plan.
            place: Epoch, the batch at which the run entered it, and how many passes came before.
            notes: The skipped tars are added here.
            ranks: Rank of this process, and number of processes.
        """
        rank, world = ranks
        worker, workers = _worker_and_count()
        stages = [
            webdataset.SimpleShardList(self._shards, seed=seed_of(plan.seed, "shards", *place)),
            # Not webdataset's own splits, which take RANK and WORKER from any environment.
            lambda tars: itertools.islice(tars, rank + world * worker, None, world * workers),
            partial(whole_samples, notes=notes),
            partial(map, raw_of),
            partial(_repeat_each, repeats=plan.repeats),
        ]
        if self.shuffle:
            size = math.ceil(self.shuffle / (world * workers))
            seed = seed_of(plan.seed, "shuffle", *place, rank, worker)
            stages.append(webdataset.shuffle(size, initial=size, seed=seed))
        return webdataset.DataPipeline(*stages)


def _worker_and_count() -> tuple[int, int]:
    """Return the number of this worker of a DataLoader, and how many there are."""
    info = get_worker_info()
    return (0, 1) if info is None else (info.id, info.num_workers)


class StreamImages(TrainingImages):
    """A ``Stream`` as the DataLoader of training sees it. Args as ``TrainingImages``.

    Each worker reads its own samples in their order; its items say only how many, and with which
    seeds.
    """

    ranks: tuple[int, int] = (0, 1)
    """Number of this process, and of all."""
    _raws: Iterator[Raw] = iter(())
    _begun: tuple[int, ...] = ()  # process, epoch and entered batch whose samples ``_raws`` gives
    _batch = -1  # the latest
    _raw = Raw("", "", {})  # the latest

    def __getstate__(self) -> dict[str, Any]:
        """Return what another process needs: no open files."""
        return {**vars(self), "_raws": iter(()), "_begun": ()}

    def __getitems__(self, items: list[Item]) -> list[dict[str, Any]]:
        """Return the next batch of this worker; an epoch's first one begins a pass over the tars.

        Raises:
            ValueError: If a pass gives no samples, or a sample breaks the contract.
        """
        plan, stream = cast(StreamPlan, self.plan), cast(Stream, self.source)
        item = items[0]
        batch = plan.batch_of(item.position)
        # With the process, since a fork must leave open files alone.
        begun = (os.getpid(), item.epoch, item.entered)
        if begun != self._begun or batch <= self._batch:
            self._notes: list[Skipped] = []
            self._raws = stream.raws(plan, item.epoch, item.entered, self._notes, self.ranks)
            self._begun = begun
        self._batch = batch
        return super().__getitems__(items)

    def _list_keys(self) -> Sequence[str]:
        """Return a stand-in for the keys, which are unknown before their samples are read."""
        return _LatestKey(self)

    def _make_sample(self, item: Item) -> dict[str, Any]:
        """Return the next crop, and with it the tars that were skipped before it."""
        sample = super()._make_sample(item)
        skipped = [*self._notes, *sample["skipped"]]
        self._notes.clear()
        return {**sample, "skipped": skipped}

    def _read_source(self, index: int) -> Sample:
        """Return the next sample, whatever its index: the next one also replaces a broken one."""
        self._raw = next(self._raws)
        return decode_sample(self._raw, self.source.srgb)

    @property
    def key(self) -> str:
        """Key of the sample that was read last."""
        return f"{self.name}/{self._raw.key}"


Stream.training_dataset = StreamImages


class _LatestKey(Sequence[str]):
    """The key of the sample that was read last, whatever its index."""

    def __init__(self, images: StreamImages) -> None:
        self.images = images

    def __len__(self) -> int:
        return cast(Stream, self.images.source).samples

    def __getitem__(self, index: Any) -> Any:
        return self.images.key


# ------------------------------------------------------------------------------------------- a tar
def whole_samples(
    sources: Iterable[dict[str, Any]], notes: list[Skipped]
) -> Iterator[dict[str, Any]]:
    """Yield the samples of tars: a stage of webdataset's pipeline that skips the rest of a bad tar.

    webdataset's own ``tarfile_to_samples`` gives half a sample of a tar that breaks off. So each
    tar has its own loop, which ends with the error.

    Args:
        sources: The addresses of the tars as ``{"url": ...}``.
        notes: The skipped tars are added here.

    Raises:
        ValueError: If a tar has two members of one name.
    """
    for source in sources:
        url = source["url"]
        try:
            with closing(TarStream(url)) as tar:
                yield from group_by_keys(_read_members(url, tar), keys=_split_name)
        except BROKEN as error:
            reason = "it is truncated, damaged or compressed"
            if isinstance(error, RemoteError):
                # Not what webdataset adds: its stream and the address, which may hold a password.
                reason = str(error.args[0]).partition(" @ ")[0]
            elif isinstance(error, OSError):
                reason = error.strerror or "its command failed"
            message = f"shard {hide_secrets(url)} cannot be read to its end: {reason}"
            notes.append(Skipped(hide_secrets(url), "unreadable tar", message, True))


def _read_members(url: str, tar: TarStream) -> Iterator[dict[str, Any]]:
    """Yield the members of a tar as webdataset's dicts, and then check that it is whole."""
    yield from tar_file_expander([{"url": url, "stream": tar}], eof_value=None)
    tar.check_end()  # before the last sample is complete


def _open_tar(url: str) -> Any:
    """Open a path or an address, or start a command, to read its bytes from front to back."""
    scheme = scheme_of(url)
    if scheme == "pipe":  # only those of `list_shards`, which refuses them by default
        command = url.removeprefix("pipe:")
        return Pipe(command, mode="rb", shell=True, env=own_environment())
    return open_remote(url) if scheme else open(url, "rb")


def _split_name(name: str) -> tuple[str | None, str | None]:
    """Split a member's name into key and suffix, as webdataset asks for: two Nones for none."""
    return split_name(name) or (None, None)


class TarStream:
    """The bytes of a tar for ``tarfile``, which takes a damaged header, or a cut, for the end.

    Args:
        url: A path, an address, or a command.
    """

    def __init__(self, url: str) -> None:
        self._file = _open_tar(url)
        self._header = b""  # the latest
        self._left = 0  # bytes until the next one

    def read(self, count: int) -> bytes:
        """Return the next header, or the next bytes of a member; ``count`` is ignored.

        ``tarfile`` asks for 10 kB at a time, which is slow, and takes what it gets.
        """
        if self._left > 0:
            data: bytes = self._file.read(min(CHUNK, self._left))
            self._left -= len(data)
            return data
        self._header = self._file.read(BLOCK)
        if self._header[TYPE] not in WITHOUT_CONTENT:
            size = int(self._header[SIZE].strip(b"\0 ") or b"0", 8)  # written in octal
            self._left = math.ceil(size / BLOCK) * BLOCK  # a member is padded to whole blocks
        return self._header

    def check_end(self) -> None:
        """Raise if the tar is not whole: it ends with a block of zeros, and only zeros follow.

        Raises:
            tarfile.ReadError: If the last header is damaged, or something follows the end.
            OSError: If the command that writes the tar failed.
        """
        goes_on = any(data.strip(b"\0") for data in iter(partial(self._file.read, CHUNK), b""))
        self._file.close()
        if goes_on or self._header != bytes(BLOCK):
            raise tarfile.ReadError("a header is damaged, or something follows the end")

    def close(self) -> None:
        """Close the file, or end the command."""
        with suppress(OSError):  # of a command that was to write more
            self._file.close()


# ---------------------------------------------------------------------------------------- a sample
def _repeat_each(raws: Iterable[Raw | None], repeats: int) -> Iterator[Raw]:
    """Yield each sample that has an image as often as an epoch takes it."""
    for raw in raws:
        if raw is not None:
            yield from itertools.repeat(raw, repeats)
