"""The order of training samples as a plan: a pure function of (sizes, seed, epoch).

The order has no state. A run that is stopped and resumed, on any number of processes, asks the same
plan for the next global batch and gets the same samples.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from itertools import chain, zip_longest
from math import ceil
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from datamodules.order.shuffle import Integers, Interleave, Mixture, Shuffle
from degradations.seeds import mix, seed_of

MAX_STREAMS = 64
AHEAD = 4096  # samples of a process that are computed together
NEAR = 256  # places on each side that are searched for a replacement
ATTEMPTS_NEAR, ATTEMPTS_IN_STREAM = 8, 100
SHOWN = 100  # characters of a value in a message
NAMES = {
    "groups": "the number of images in data.init_args.train",
    "images": "the hash of the names of the images in data.init_args.train",
    "contents": "the hash of some files of data.init_args.train",
    "crops_per_image": "data.init_args.crops.per_image",
    "mixture": "the weights and samples of data.init_args.train",
    "shuffle": "data.init_args.train.init_args.shuffle",
    "seed": "seed_everything",
}


class Item(NamedTuple):
    """A sample of the plan.

    image: Number of the image in the source.
    seed: Seed of everything random about it.
    epoch: Its epoch of training.
    position: Its place in that epoch.
    entered: Of a ``Stream``, the global batch at which the run entered that epoch.
    """

    image: int
    seed: int
    epoch: int = 0
    position: int = 0
    entered: int = 0


def default_streams(batch_size: int) -> int:
    """Return the number of canonical streams: the largest divisor of ``batch_size`` up to 64."""
    return max(d for d in range(1, min(batch_size, MAX_STREAMS) + 1) if batch_size % d == 0)


@dataclass(frozen=True)
class Plan:
    """The sequence of samples of every epoch, cut into global batches.

    Groups (shards) are shuffled, samples are shuffled within a window of groups, and the resulting
    sequence is cut into ``streams`` contiguous streams of equal length. Global batch k takes
    ``batch_size / streams`` samples from each stream, and a process owns whole streams. So it reads
    only its own part of the shards, and global batch k holds the same samples on any number of
    processes that divides ``streams``.

    Only the windows that are used of an epoch's order are computed.

    Args:
        groups: Number of samples of each group, in the source's order.
        seed: The run's seed.
        batch_size: Samples of one micro-batch over all processes.
        streams: Number of canonical streams; divides ``batch_size``.
        repeats: How often an epoch takes each image, with another seed each time.
        window: Number of groups within which samples are shuffled.
        mixture: How the sources are mixed, if the groups belong to several. An epoch then has
            ``mixture.samples`` images, and begins where the previous one ended.
    """

    groups: tuple[int, ...]
    seed: int
    batch_size: int
    streams: int
    repeats: int = 1
    window: int = 16
    mixture: Mixture | None = None

    def __len__(self) -> int:
        """Number of global batches per epoch; it omits at most ``batch_size - 1`` samples."""
        return self.total // self.batch_size

    def __reduce__(self) -> tuple[type[Plan], tuple[Any, ...]]:
        """Pickle without computed windows: each worker computes its own."""
        return type(self), tuple(getattr(self, field.name) for field in fields(self))

    @cached_property
    def total(self) -> int:
        """Number of samples (each image ``repeats`` times) that an epoch chooses from."""
        images = sum(self.groups) if self.mixture is None else self.mixture.samples
        return images * self.repeats

    @property
    def stream_length(self) -> int:
        """Number of samples of one stream in an epoch."""
        return len(self) * self.batch_size // self.streams

    @property
    def state(self) -> dict[str, Any]:
        """What fixes the order, in plain types, for a checkpoint."""
        mixture: list[Any] | None = None
        if self.mixture is not None:
            mixture = [*map(list, self.mixture[:2]), self.mixture.samples]
        return {
            "groups": list(self.groups),
            "mixture": mixture,
            "seed": self.seed,
            "batch_size": self.batch_size,
            "streams": self.streams,
            "crops_per_image": self.repeats,
        }

    def batches(self, epoch: int, start: int, rank: int, world: int) -> Iterator[list[Item]]:
        """Iterate over the micro-batches of one process, from global batch ``start`` on.

        Args:
            epoch: Number of the epoch, from 0.
            start: Number of global batches of this epoch that are done.
            rank: Rank of this process.
            world: Number of processes; divides ``streams``.
        """
        share = self.batch_size // self.streams
        base = np.uint64(seed_of(self.seed, "sample", epoch))
        streams = self.streams_of_rank(rank, world)
        step = max(1, AHEAD // (share * len(streams)))  # batches computed together
        for first in range(start, len(self), step):
            count = min(step, len(self) - first)
            begins = [stream * self.stream_length + first * share for stream in streams]
            samples = [self._samples(epoch, begin, begin + count * share) for begin in begins]
            images = _regroup_by_batch(samples, count) // self.repeats
            places = [np.arange(begin, begin + count * share) for begin in begins]
            positions = _regroup_by_batch(places, count)
            with np.errstate(over="ignore"):
                # One bit less than `mix` gives, so that torch's int64 holds a seed.
                seeds = mix(base + positions.astype(np.uint64)) >> np.uint64(1)
            for row in zip(images.tolist(), seeds.tolist(), positions.tolist(), strict=True):
                yield [Item(i, s, epoch, p) for i, s, p in zip(*row, strict=True)]

    def streams_of_rank(self, rank: int, world: int) -> range:
        """Return the streams of one process out of ``world``."""
        return range(rank * self.streams // world, (rank + 1) * self.streams // world)

    def batch_of(self, position: int) -> int:
        """Return the number of the global batch that holds a place of an epoch."""
        return position % self.stream_length // (self.batch_size // self.streams)

    def replacement(self, epoch: int, position: int, attempt: int) -> int:
        """Return another image for a place whose own image cannot be used.

        It is taken from near the place, so from shards in use, and in a mixture from the same
        source; after some attempts from near a random place of the stream, and after many, or if
        none is found, from near a random place of the epoch. It also has its own place there.

        Args:
            epoch: Number of the epoch.
            position: The place in it.
            attempt: Number of replacements tried before.

        Returns:
            Number of the image; the place's own if no other image of its source is near.
        """
        length = self.stream_length
        first = position // length * length
        to_search = [(position, first, length)] if attempt < ATTEMPTS_NEAR else []
        pick = seed_of(self.seed, "replacement", epoch, position, attempt)
        if attempt < ATTEMPTS_IN_STREAM:
            to_search.append((first + pick % length, first, length))
        everywhere = length * self.streams
        to_search.append((pick % everywhere, 0, everywhere))
        image = int(self._samples(epoch, position, position + 1)[0]) // self.repeats
        for centre, first, length in to_search:
            start, stop = max(first, centre - NEAR), min(first + length, centre + NEAR)
            others = self._other_images(epoch, start, stop, image)
            if len(others):
                return int(others[pick // length % len(others)])
        return image

    @cached_property
    def lookahead(self) -> int:
        """Samples of a stream that ``upcoming_groups`` looks at: about a window."""
        images = ceil(sum(self.groups) * self.window / len(self.groups))
        return max(images * self.repeats, self.batch_size // self.streams)

    def upcoming_groups(self, epoch: int, batch: int, rank: int, world: int) -> list[int]:
        """Return the groups that a process reads from a global batch on, soonest first.

        At the end of an epoch it looks into the next. Args as ``batches``.
        """
        length, share = self.stream_length, self.batch_size // self.streams
        streams: list[list[int]] = []
        for stream in self.streams_of_rank(rank, world):
            begin, end = stream * length, (stream + 1) * length
            start = begin + batch * share
            stop = min(start + self.lookahead, end)
            in_next_epoch = min(self.lookahead - (stop - start), length)
            samples = [
                self._samples(epoch, start, stop),
                self._samples(epoch + 1, begin, begin + in_next_epoch),
            ]
            images = np.concatenate(samples) // self.repeats
            groups = np.searchsorted(np.cumsum(self.groups), images, "right")
            distinct, first_uses = np.unique(groups, return_index=True)
            streams.append(distinct[np.argsort(first_uses)].tolist())
        # The first group of every stream, then the second of every stream, and so on.
        groups_in_turn = dict.fromkeys(chain.from_iterable(zip_longest(*streams)))
        return [group for group in groups_in_turn if group is not None]

    def _other_images(self, epoch: int, start: int, stop: int, image: int) -> Integers:
        """Return the images at places ``start`` to ``stop`` that may replace an image.

        In a mixture they are of the same source.
        """
        images = self._samples(epoch, start, stop) // self.repeats
        differs = images != image
        if self.mixture is not None:
            differs &= self._source_numbers(images) == self._source_numbers(image)
        return images[differs]

    def _source_numbers(self, images: Integers | int) -> Any:
        """Return to which sources of a mixture images belong, counted from 0."""
        return np.searchsorted(self._source_ends, images, "right")

    @cached_property
    def _source_ends(self) -> NDArray[np.int64]:
        """Cumulative number of images at the end of each source of a mixture."""
        groups = () if self.mixture is None else self.mixture.groups
        return np.cumsum(self.groups)[np.cumsum(groups, dtype=np.int64) - 1]

    def _samples(self, epoch: int, start: int, stop: int) -> Integers:
        """Return the samples at places ``start`` to ``stop`` of an epoch.

        A sample is the number image * repeats + repeat, so its image is sample // repeats.
        """
        base = epoch * self._epoch_length
        return self._order.take(base + start, base + stop)

    @property
    def _epoch_length(self) -> int:
        """Places of the endless order from one epoch's start to the next."""
        return self.total if self.mixture is None else len(self) * self.batch_size

    @cached_property
    def _order(self) -> Shuffle | Interleave:
        """The endless order of samples; epochs are its consecutive parts."""
        # Shuffled windows that are kept: a place and its NEAR may lie in three of each stream, and
        # the random place of a replacement in two more.
        keep = 3 * self.streams + 2
        arguments = (self.repeats, self.window, self.seed)
        if self.mixture is None:
            return Shuffle(self.groups, *arguments, keep=keep)
        return Interleave(self.groups, self.mixture, *arguments, keep=keep)


def new_plan(source: Any, seed: int, batch_size: int, streams: int, repeats: int) -> Plan:
    """Return the plan of a prepared source. Other arguments as ``Plan``.

    Raises:
        ValueError: If it has too few images for one batch.
    """
    groups = tuple(source.groups)
    plan = Plan(groups, seed, batch_size, streams, repeats, mixture=source.mixture)
    return checked_plan(plan)


def checked_plan(plan: Plan) -> Plan:
    """Return a plan whose epochs have a batch at least.

    Raises:
        ValueError: If an epoch has fewer samples than a batch.
    """
    if not len(plan):
        raise ValueError(
            f"data.init_args.train has {plan.total // plan.repeats} images (crops.per_image "
            f"{plan.repeats}), fewer than data.init_args.batch_size {plan.batch_size}: raise "
            "crops.per_image, or lower batch_size"
        )
    return plan


def check_same_order(earlier: dict[str, Any], state: dict[str, Any]) -> None:
    """Refuse to resume a run in another order.

    Args:
        earlier: ``Plan.state`` and the images of the checkpoint.
        state: Those of this run.

    Raises:
        ValueError: If they differ; the message names the key and both values.
    """
    for name, value in state.items():
        before = earlier.get(name, value)
        if before != value:
            raise ValueError(
                "the checkpoint was made with another order of samples: "
                f"{NAMES.get(name, f'data.init_args.{name}')} was {before!s:.{SHOWN}}, now it "
                f"is {value!s:.{SHOWN}}. Restore it, or start from the weights alone: "
                "--model.init_args.weights CHECKPOINT --run.name NEW"
            )


def check_world(plan: Plan, world: int) -> None:
    """Refuse a number of processes that cannot share the plan's streams evenly.

    Raises:
        ValueError: If ``world`` does not divide the plan's streams; the message lists valid
            numbers.
    """
    if plan.streams % world:
        legal = [d for d in range(1, plan.streams + 1) if plan.streams % d == 0]
        raise ValueError(
            f"{world} processes cannot share data.init_args.batch_size {plan.batch_size} evenly "
            f"({plan.streams} streams): use one of these numbers of processes: {legal}, or another "
            "batch_size"
        )


class PlanSampler:
    """The batch sampler of training: the plan, from the run's position on.

    It is not a subclass of ``BatchSampler``, because Lightning takes those apart and rebuilds them.

    Args:
        plan: The order of the samples.
        rank: Rank of this process.
        world: Number of processes.
        position: Called when an epoch begins; returns its number, and how many of its global
            batches are done.
        announce: Called with the groups that this process reads next, as ``Source.upcoming``.
    """

    def __init__(
        self,
        plan: Plan,
        rank: int,
        world: int,
        position: Callable[[], tuple[int, int]],
        announce: Callable[[list[int]], None] | None = None,
    ) -> None:
        check_world(plan, world)
        self.plan, self.rank, self.world, self.position = plan, rank, world, position
        self.announce = announce

    def __len__(self) -> int:
        """Number of batches of a whole epoch, even if it was resumed in its middle."""
        return len(self.plan)

    def __iter__(self) -> Iterator[list[Item]]:
        """Iterate over the epoch's batches from the run's position on."""
        return self._batches(*self.position())

    def _batches(self, epoch: int, start: int) -> Iterator[list[Item]]:
        """Iterate over an epoch's batches, and announce the groups that they will come from."""
        batches = self.plan.batches(epoch, start, self.rank, self.world)
        # Batches in which half of the announced samples are used up.
        every = max(1, self.plan.lookahead // (2 * self.plan.batch_size // self.plan.streams))
        for number, batch in enumerate(batches, start):
            if self.announce and len(self.plan.groups) > 1 and (number - start) % every == 0:
                self.announce(self.plan.upcoming_groups(epoch, number, self.rank, self.world))
            yield batch


class EvaluationSampler:
    """Every image exactly once: process r takes images r, r + world, ...; ranks may be uneven.

    Args:
        indices: Numbers of the images.
        seed: Returns the seed of an image.
        batch_size: Images per batch on each process.
        rank: Rank of this process.
        world: Number of processes.
    """

    def __init__(
        self,
        indices: Sequence[int],
        seed: Callable[[int], int],
        batch_size: int,
        rank: int,
        world: int,
    ) -> None:
        self.own, self.seed, self.batch_size = indices[rank::world], seed, batch_size

    def __len__(self) -> int:
        """Number of batches on this process, or 1 if it has none.

        Lightning skips the whole evaluation on a process whose loaders are empty; the other
        processes would wait for it forever, as metrics are reduced at the evaluation's end.
        """
        return max(1, ceil(len(self.own) / self.batch_size))

    def __iter__(self) -> Iterator[list[Item]]:
        """Iterate over the batches in the source's order."""
        for start in range(0, len(self.own), self.batch_size):
            yield [Item(i, self.seed(i)) for i in self.own[start : start + self.batch_size]]


def _regroup_by_batch(streams: list[Integers], count: int) -> Integers:
    """Return (batches, samples of all streams) from one array per stream."""
    rows = [stream.reshape(count, -1) for stream in streams]
    return np.concatenate(rows, axis=1)
