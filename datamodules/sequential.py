"""Tars read from front to back, as they come: for what cannot be indexed.

A plan of C streams goes through the tars as whole: each stream reads its tars one after the other
and shuffles what comes by. Which sample is at which place of a stream is a function of the seed and
of the tars' contents alone; a process that comes later, or again, reads up to it.
"""

from __future__ import annotations

import itertools
import logging
import os
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

import numpy as np

from datamodules.clock import READING
from datamodules.order import Item, Plan
from datamodules.pictures import TrainingPictures
from datamodules.policy import Skipped
from datamodules.retry import Patience, RemoteError, shown
from datamodules.shard_urls import list_shards
from datamodules.shuffle import Ahead, Integers, permutation
from datamodules.source import Pixels, Sample, Source
from datamodules.tar_stream import BrokenShard, Raw, check_order, decoded, raws_of
from degradations.base import Degradation
from degradations.draws import seed_of

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class SequentialPlan(Plan):
    """Streams without an end, of which each epoch takes the next part.

    The "number of a picture" is the place in its stream, times the number of streams, plus the
    number of the stream.

    Args:
        shuffle: Samples of each stream that are shuffled together.
    """

    shuffle: int = 1

    def _take(self, epoch: int, start: int, stop: int) -> Integers:
        stream, place = np.divmod(np.arange(start, stop), max(self.stream_length, 1))
        return ((epoch * self.stream_length + place) * self.streams + stream) * self.repeats

    def replacement(self, epoch: int, position: int, attempt: int) -> int:
        """What comes next in the stream. Args as ``Plan.replacement``."""
        own = int(self._take(epoch, position, position + 1)[0]) // self.repeats
        return own + (attempt + 1) * self.streams

    def ahead(self, epoch: int, position: int) -> Ahead:
        """No groups; the tars come as they come. Args as ``Plan.ahead``."""
        return Ahead([], [], (position // self.stream_length + 1) * self.stream_length)


class Sequential(Source):
    """Samples of WebDataset tars, read from front to back, without an index and without a cache.

    For commands and servers that give a tar only as a whole, and for sets that are too large to be
    kept or looked through. What is read of a sample is as for ``Shards``, which is the better
    choice wherever it can be used: it shuffles better and resumes without reading. Here the tars
    are shuffled and dealt to the ``data.init_args.streams`` in each pass, a stream reads its tars
    one after the other, and a run that is resumed reads them again up to where it stood. For
    training only.

    Args:
        urls: Tars: paths, addresses (``http(s)://``, ``s3://``, ``gs://``) or commands
            (``pipe:``), with ``{000..999}`` for several, or a list of these; at least as many as
            streams.
        samples: Samples of an epoch, over all processes together; the next epoch goes on where it
            ended.
        shuffle: Samples, over all processes together, that are kept undecoded in memory to be
            shuffled; each stream does so with its share of them. 0: no shuffling.
        scale: Scale of this source alone.
        degradation: Makes the LR of this source alone; by default the run's ``degradation``.
        retries: How often a tar that cannot be read on is tried again, with growing pauses.
        deadline: Seconds without progress after which it is given up all the same.
        allow_pipes: Run urls of the form ``pipe:COMMAND``. Commands in a configuration run with
            your rights.

    Raises:
        ValueError: A number that is too small.
    """

    def __init__(
        self,
        urls: str | list[str],
        samples: int,
        shuffle: int = 1000,
        scale: float | None = None,
        degradation: Degradation | None = None,
        retries: int = 8,
        deadline: float = 300.0,
        allow_pipes: bool = False,
    ) -> None:
        super().__init__(scale, degradation)
        if samples < 1 or shuffle < 0 or retries < 0 or deadline <= 0:
            raise ValueError(
                f"Sequential.samples is {samples}, shuffle {shuffle}, retries {retries}, deadline "
                f"{deadline:g}; expected at least 1, 0, 0, and more than 0"
            )
        self.urls, self.samples, self.shuffle, self.allow_pipes = (
            urls,
            samples,
            shuffle,
            allow_pipes,
        )
        self.patience = Patience(retries, deadline, stall=min(30.0, deadline / 4))
        self._shards: list[str] = []
        self._plan: SequentialPlan | None = None
        self._forget()

    def _forget(self) -> None:
        self._streams: dict[int, _Stream] = {}
        self._counts: dict[int, int] = {}  # samples of the shards that were read to their end
        self._pid = os.getpid()

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_streams": {}, "_counts": {}}

    def prepare(self, scale: float) -> None:
        """List the tars. Args as ``Source.prepare``.

        Raises:
            ValueError: There are none, or some of a kind that is not read.
        """
        with _own_messages():
            self._shards = list_shards(self.urls, self.allow_pipes, self.patience)

    def plan(self, seed: int, batch_size: int, streams: int, repeats: int) -> SequentialPlan:
        """The order of the samples, after ``prepare``. Args as of ``Plan``.

        Raises:
            ValueError: There are fewer tars than streams, or samples than a batch takes.
        """
        if len(self._shards) < streams:
            fits = max(d for d in range(1, len(self._shards) + 1) if batch_size % d == 0)
            raise ValueError(
                f"Sequential.urls has {len(self._shards)} tars, fewer than the {streams} streams "
                "among which they are dealt as whole tars: set data.init_args.streams to "
                f"{fits} (the number of processes must divide it), or pack smaller tars"
            )
        share = max(1, -(-self.shuffle // streams))
        plan = SequentialPlan((self.samples,), seed, batch_size, streams, repeats, shuffle=share)
        if not len(plan):
            raise ValueError(
                f"Sequential.samples is {self.samples} (crops_per_image {repeats}), less than "
                f"data.init_args.batch_size {batch_size}: raise samples"
            )
        self._forget()
        self._plan = plan
        return plan

    @property
    def shards(self) -> list[str]:
        """File names of the tars: what a resumed run must find again."""
        return [shown(shard).rpartition("/")[2] for shard in self._shards]

    @property
    def keys(self) -> Sequence[str]:
        """There are none.

        Raises:
            ValueError: Always: who asks for them wants to choose.
        """
        raise _refused()

    def read(self, index: int) -> Sample:
        """A sample by its number in the plan: as a rule the next one of its stream.

        Raises:
            UnreadableImage: A picture or a caption is broken.
            RemoteError: A tar cannot be read, or a command failed.
        """
        return decoded(self.raw(index), self.srgb)

    def raw(self, index: int, forget: bool = False) -> Raw:
        """The same, undecoded.

        Args:
            index: Number of the sample in the plan.
            forget: Whether those before it in its stream are not asked for any more.
        """
        if self._plan is None:
            raise _refused()
        if self._pid != os.getpid():  # what the process that was forked had opened is its own
            self._inherited = self._streams
            self._forget()
        place, number = divmod(index, self._plan.streams)
        if number not in self._streams:
            self._streams[number] = _Stream(
                self._plan, number, self._shards, self._counts, self.patience
            )
        with _own_messages():
            return self._streams[number].at(place, forget)


class _Stream:
    """One stream of a plan, in the process that reads it.

    Args:
        plan: The plan.
        number: Of the stream.
        shards: All tars.
        counts: Samples of those that were read to their end, by number; more are added.
        patience: How long to try to read one.
    """

    def __init__(
        self,
        plan: SequentialPlan,
        number: int,
        shards: list[str],
        counts: dict[int, int],
        patience: Patience,
    ) -> None:
        self.plan, self.number, self.shards, self.patience = plan, number, shards, patience
        self._counts = counts
        self._first, self._near = 0, deque[Raw]()  # those that can be asked for, from place `first`
        self._coming: Iterator[Raw] | None = None

    def at(self, place: int, forget: bool) -> Raw:
        """The sample at a place of the stream; ``forget`` as of ``Sequential.raw``."""
        if self._coming is None or place < self._first:
            self._first, self._coming = place, self._shuffled(place)
            self._near.clear()
        while True:
            while forget and self._near and self._first < place:
                self._near.popleft()
                self._first += 1
            if place < self._first + len(self._near):
                return self._near[place - self._first]
            self._near.append(next(self._coming))

    def _shuffled(self, start: int) -> Iterator[Raw]:
        """Block after block is shuffled: while one is given out, the next one is read."""
        size = self.plan.shuffle
        block, gone = divmod(start, size)
        coming = self._copies(block * size)
        waiting = dict(enumerate(itertools.islice(coming, size)))
        for number in itertools.count(block):
            order = permutation(size, seed_of(self.plan.seed, "shuffle", self.number, number))
            following = list(itertools.islice(coming, gone))
            for place in order[gone:].tolist():
                yield waiting.pop(place)
                following.append(next(coming))
            waiting, gone = dict(enumerate(following)), 0

    def _copies(self, start: int) -> Iterator[Raw]:
        """Each sample as often as an epoch takes it."""
        first, done = divmod(start, self.plan.repeats)
        for raw in self._raws(first):
            for copy in range(done, self.plan.repeats):
                yield raw._replace(notes=()) if copy else raw
            done = 0

    def _raws(self, first: int) -> Iterator[Raw]:
        """The samples in the tars' order, pass after pass, from one of them on.

        A tar whose samples were counted is left out as a whole if all of them come before.
        """
        if first:
            log.info("Sequential: stream %d is read up to its sample %d", self.number, first)
        number, notes = 0, list[Skipped]()
        for turn in itertools.count():
            begin = number
            order = permutation(len(self.shards), seed_of(self.plan.seed, "shards", turn))
            for shard in order[self.number :: self.plan.streams].tolist():
                known = self._counts.get(shard)
                if known is not None and number + known <= first:
                    number += known
                    continue
                name, count = shown(self.shards[shard]), 0
                if known is None:
                    check_order(self.shards[shard])
                try:
                    for raw in raws_of(self.shards[shard], self.patience):
                        if number >= first:
                            yield raw._replace(notes=tuple(notes))
                        number, count, notes = number + 1, count + 1, []
                except BrokenShard as error:
                    notes.append(Skipped(name, error.reason, str(error), True))
                if known not in (None, count):
                    raise ValueError(
                        f"shard {name} had {known} samples, and now has {count}: it was replaced "
                        "while it was in use; put it back, or start a new run"
                    )
                self._counts[shard] = count
            if number == begin:
                why = notes[0].message if notes else "they hold no pictures"
                raise ValueError(
                    f"Sequential.urls: no samples in all tars of stream {self.number} ({why})"
                )


class SequentialPictures(TrainingPictures):
    """A ``Sequential`` as the DataLoader of training sees it; args as ``TrainingPictures``."""

    def _found(self) -> Sequence[str]:
        return _Keys(self._sequential, self.name)

    @property
    def _sequential(self) -> Sequential:
        return cast(Sequential, self.source)

    def _sample(self, item: Item, out: Pixels | None) -> dict[str, Any]:
        # A picture that cannot be used is replaced by the next one of its stream.
        notes = self._next(item.picture)
        sample = super()._sample(item, out)
        return {**sample, "skipped": [*notes, *sample["skipped"]]}

    @READING
    def _next(self, number: int) -> tuple[Skipped, ...]:
        return self._sequential.raw(number, forget=True).notes


class _Keys(Sequence[str]):
    """Keys of the samples that were just read, by their numbers in the plan."""

    def __init__(self, source: Sequential, name: str) -> None:
        self.source, self.name = source, name

    def __len__(self) -> int:
        return self.source.samples

    def __getitem__(self, index: Any) -> Any:
        return f"{self.name}/{self.source.raw(index).key}"


def _refused() -> ValueError:
    return ValueError(
        "datamodules.sequential.Sequential is read from front to back, so it can only be "
        "data.init_args.train itself, and no source of val, test, predict, Mix or Crops: use "
        "datamodules.shards.Shards there"
    )


@contextmanager
def _own_messages() -> Iterator[None]:
    """Keys in messages of what ``Shards`` uses too."""
    try:
        yield
    except RemoteError as error:
        raise RemoteError(str(error).replace("Shards.", "Sequential."), error.kind) from error
    except ValueError as error:
        raise ValueError(str(error).replace("Shards.", "Sequential.")) from error
