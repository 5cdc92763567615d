"""The order of training samples as a plan: a pure function of (sizes, seed, epoch).

Nothing about the order is state. A run that is stopped and continued, on the same number of
processes or another one, asks the same plan for the next global batch and gets the same samples.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from degradations.draws import mix, seed_of

MAX_STREAMS = 64


class Item(NamedTuple):
    """What a worker needs for a sample: which picture, and the seed of all that happens to it."""

    picture: int
    seed: int


def default_streams(batch_size: int) -> int:
    """Number of canonical streams of a plan: the largest divisor of ``batch_size`` up to 64."""
    return max(d for d in range(1, min(batch_size, MAX_STREAMS) + 1) if batch_size % d == 0)


@dataclass(frozen=True)
class Plan:
    """The sequence of samples of every epoch, cut into global batches.

    Groups (shards) are shuffled, samples are shuffled within a window of groups, and the resulting
    sequence is cut into ``streams`` contiguous streams of equal length. Global batch k takes
    ``batch_size / streams`` samples from each stream, and a process owns whole streams: so it reads
    only its own part of the shards, and global batch k holds the same samples on any number of
    processes that divides ``streams``.

    Args:
        groups: Number of samples of each group, in the source's order.
        seed: The run's seed.
        batch_size: Samples of one micro-batch over all processes together.
        streams: Number of canonical streams; divides ``batch_size``.
        repeats: How often each picture is taken an epoch, with another seed each time.
        window: Samples are shuffled within so many groups.
    """

    groups: tuple[int, ...]
    seed: int
    batch_size: int
    streams: int
    repeats: int = 1
    window: int = 16

    def __len__(self) -> int:
        """Number of global batches an epoch; at most ``batch_size - 1`` samples are left out."""
        return sum(self.groups) * self.repeats // self.batch_size

    def sequence(self, epoch: int) -> NDArray[np.int64]:
        """Order of all virtual samples of an epoch.

        Args:
            epoch: Number of the epoch, from 0.

        Returns:
            (samples * repeats,) of picture * repeats + repeat.
        """
        starts = np.concatenate([[0], np.cumsum(self.groups)])
        order = _permutation(len(self.groups), seed_of(self.seed, "shards", epoch))
        parts = []
        for number, first in enumerate(range(0, len(order), self.window)):
            members = [
                np.arange(starts[g] * self.repeats, starts[g + 1] * self.repeats)
                for g in order[first : first + self.window]
            ]
            together = np.concatenate(members)
            key = seed_of(self.seed, "samples", epoch, number)
            parts.append(together[_permutation(len(together), key)])
        return np.concatenate(parts)

    def batches(self, epoch: int, start: int, rank: int, world: int) -> Iterator[list[Item]]:
        """Micro-batches of one process, from global batch ``start`` of ``epoch`` on.

        Args:
            epoch: Number of the epoch, from 0.
            start: Number of global batches of this epoch that were consumed already.
            rank: Number of this process.
            world: Number of processes; divides ``streams``.
        """
        sequence = self.sequence(epoch)
        stream_length = len(self) * self.batch_size // self.streams
        share = self.batch_size // self.streams
        base = np.uint64(seed_of(self.seed, "sample", epoch))
        own = range(rank * self.streams // world, (rank + 1) * self.streams // world)
        for k in range(start, len(self)):
            positions = np.concatenate(
                [np.arange(share) + stream * stream_length + k * share for stream in own]
            )
            with np.errstate(over="ignore"):
                seeds = mix(base + positions.astype(np.uint64)) >> np.uint64(1)
            pictures = sequence[positions] // self.repeats
            yield [Item(int(i), int(s)) for i, s in zip(pictures, seeds, strict=True)]


def check_world(plan: Plan, world: int) -> None:
    """Refuse a number of processes that cannot share the plan's streams evenly.

    Raises:
        ValueError: ``world`` does not divide the plan's streams; the legal numbers are listed.
    """
    if plan.streams % world:
        legal = [d for d in range(1, plan.streams + 1) if plan.streams % d == 0]
        raise ValueError(
            f"{world} processes cannot share data.init_args.batch_size {plan.batch_size} evenly "
            f"({plan.streams} streams): use a number of processes out of {legal}, or another "
            "batch_size"
        )


class PlanSampler:
    """The batch sampler that the DataLoader takes: the plan, read from where the run stands.

    It is no subclass of ``BatchSampler`` on purpose: Lightning takes those apart and rebuilds them.

    Args:
        plan: The order of the samples.
        rank: Number of this process.
        world: Number of processes.
        position: Asked when an epoch begins: its number, and how many of its global batches were
            consumed already.
    """

    def __init__(
        self, plan: Plan, rank: int, world: int, position: Callable[[], tuple[int, int]]
    ) -> None:
        check_world(plan, world)
        self.plan, self.rank, self.world, self.position = plan, rank, world, position

    def __len__(self) -> int:
        """Number of batches of a whole epoch, also when it was entered in its middle."""
        return len(self.plan)

    def __iter__(self) -> Iterator[list[Item]]:
        """The epoch's batches from where the run stands."""
        epoch, start = self.position()
        return self.plan.batches(epoch, start, self.rank, self.world)


class EvaluationSampler:
    """Every picture exactly once: process r takes pictures r, r + world, ...; ranks may be uneven.

    Args:
        indices: The pictures to go through.
        seeds: One seed a picture, of the same length.
        batch_size: Pictures a batch on each process.
        rank: Number of this process.
        world: Number of processes.
    """

    def __init__(
        self, indices: Sequence[int], seeds: Sequence[int], batch_size: int, rank: int, world: int
    ) -> None:
        own = [Item(i, s) for i, s in zip(indices, seeds, strict=True)][rank::world]
        self.chunks = [own[i : i + batch_size] for i in range(0, len(own), batch_size)]

    def __len__(self) -> int:
        """Number of batches on this process, and 1 where there is none.

        Lightning leaves a whole evaluation out on a process whose loaders are empty; the others
        would wait for it forever, for metrics are brought together at the evaluation's end.
        """
        return max(1, len(self.chunks))

    def __iter__(self) -> Iterator[list[Item]]:
        """The batches, in the source's order."""
        return iter(self.chunks)


def _permutation(n: int, seed: int) -> NDArray[np.int64]:
    # Our own permutation: numpy does not promise that its generators shuffle alike in the next
    # release, and a run that is continued a year later must not change its order.
    with np.errstate(over="ignore"):
        keys = mix(np.uint64(seed) + np.arange(n, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15))
    return np.argsort(keys, kind="stable")
