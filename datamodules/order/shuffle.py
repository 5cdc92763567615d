"""Shuffle within groups, and mix sources by weight.

A pass takes every sample (an image, or one of its repeats) once: groups are shuffled, and samples
within a window of groups. Passes follow each other without end, so a place in the order is one
number, and its sample is found without computing the places before it. A sample is a number, too:
image * repeats + repeat.

Source i follows its own endless order, so it gives every image once before any
image again. The mixture takes from the sources in blocks of about 256 places: by the end of block
b, source i gave floor(256 b w_i) samples, where w_i is its share. Places within a block are
shuffled. So a source's share is exact to one sample at each block's end, and nothing is drawn with
replacement.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from functools import lru_cache
from math import ceil
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from degradations.seeds import GAMMA, mix, seed_of

Integers = NDArray[np.signedinteger[Any]]
BLOCK = 256  # places of a mixture that are shuffled together


class _Pass(NamedTuple):
    order: NDArray[np.int64]  # groups, shuffled
    ends: NDArray[np.int64]  # place in the pass where each window ends


class Shuffle:
    """The endless order of one source.

    Args:
        groups: Number of images of each group.
        repeats: How often a pass takes each image.
        window: Number of groups within which samples are shuffled.
        seed: Seed of the order.
        first_image: Number of the first image, if there are others before.
        keep: Number of computed windows to keep, at most those of two epochs.
        epoch: Places of the order in an epoch; by default a pass.
    """

    def __init__(
        self,
        groups: Sequence[int],
        repeats: int,
        window: int,
        seed: int,
        first_image: int = 0,
        keep: int = 8,
        epoch: int | None = None,
    ) -> None:
        self.repeats = repeats
        self.window = window
        self.seed = seed
        self._sizes = np.asarray(groups, dtype=np.int64)
        # Number of the first image of each group.
        self._starts = first_image + np.cumsum(self._sizes) - self._sizes
        self.length = int(self._sizes.sum()) * repeats
        last = first_image * repeats + self.length
        self._dtype = np.int32 if last <= 2**31 else np.int64
        # A set with few windows, such as a folder with one, would else keep many past epochs.
        passes = 2 if epoch is None else ceil(2 * epoch / max(1, self.length))
        windows = ceil(len(self._sizes) / window)
        keep = min(keep, passes * windows + 2)
        self._pass = lru_cache(keep)(self._compute_pass)
        self._window = lru_cache(keep)(self._compute_window)

    def take(self, start: int, stop: int) -> Integers:
        """Return samples ``start`` to ``stop`` of the order, as image * repeats + repeat."""
        parts: list[Integers] = []
        while start < stop:
            number, place = divmod(start, self.length)
            ends = self._pass(number).ends
            window = int(np.searchsorted(ends, place, "right"))
            first = int(ends[window - 1]) if window else 0  # place of the window in the pass
            part = self._window(number, window)[place - first :][: stop - start]
            parts.append(part)
            start += len(part)
        return np.concatenate(parts) if parts else np.zeros(0, self._dtype)

    def _compute_pass(self, number: int) -> _Pass:
        """Return the order of the groups in a pass, and where each window of them ends."""
        order = permutation(len(self._sizes), seed_of(self.seed, "shards", number))
        ends = np.cumsum(self._sizes[order]) * self.repeats  # of the groups
        last_groups = np.arange(self.window, len(order) + self.window, self.window) - 1
        last_groups = np.minimum(last_groups, len(order) - 1)  # the last window may be smaller
        return _Pass(order, ends[last_groups])

    def _compute_window(self, number: int, window: int) -> Integers:
        """Return the samples of some groups of a pass, shuffled, as image * repeats + repeat."""
        first = window * self.window
        groups = self._pass(number).order[first : first + self.window]
        sizes = self._sizes[groups] * self.repeats
        places = np.cumsum(sizes) - sizes  # where each group begins in the window
        # The samples of a group are numbered one after the other.
        shifts = self._starts[groups] * self.repeats - places
        samples = np.repeat(shifts.astype(self._dtype), sizes)
        samples += np.arange(len(samples), dtype=self._dtype)
        return samples[permutation(len(samples), seed_of(self.seed, "samples", number, window))]


def permutation(n: int, seed: int) -> NDArray[np.int64]:
    """Return 0 to n - 1 shuffled, (n,) int64, the same in every release of NumPy.

    NumPy's generators may change between releases, and a resumed run must keep its order.
    """
    with np.errstate(over="ignore"):
        keys = mix(np.uint64(seed) + np.arange(n, dtype=np.uint64) * np.uint64(GAMMA))
    return np.argsort(keys)  # `mix` is a bijection: all keys differ, so any sort works


class Mixture(NamedTuple):
    """How the groups of a Source are mixed.

    groups: Number of groups of each part, in order.
    weights: The parts' shares, in any unit.
    samples: Images per epoch.
    """

    groups: tuple[int, ...]
    weights: tuple[float, ...]
    samples: int

    def times(self, count: int) -> Mixture:
        """Return the mixture of a source that gives ``count`` samples for each of these images."""
        return self._replace(samples=self.samples * count)


class Interleave:
    """The endless order of a mixture.

    Args:
        groups: Number of images of each group, of all parts.
        mixture: How they are mixed.
        repeats: How often a pass over a part takes each image.
        window: Number of a part's groups within which its samples are shuffled.
        seed: Seed of the order.
        keep: As in ``Shuffle``, for each part; twice as many blocks are kept.
    """

    def __init__(
        self,
        groups: Sequence[int],
        mixture: Mixture,
        repeats: int,
        window: int,
        seed: int,
        keep: int = 8,
    ) -> None:
        self.seed = seed
        weights = [Fraction(weight) for weight in mixture.weights]  # exact
        total = sum(weights)
        self._shares = [weight / total for weight in weights]
        self._parts: list[Shuffle] = []
        first = 0  # number of the part's first group
        for number, share in enumerate(self._shares):
            end = first + mixture.groups[number]
            part = Shuffle(
                groups[first:end],
                repeats,
                window,
                seed_of(seed, "part", number),
                first_image=sum(groups[:first]),
                keep=keep,
                epoch=ceil(mixture.samples * repeats * share),
            )
            self._parts.append(part)
            first = end
        self._block = lru_cache(2 * keep)(self._compute_block)

    def take(self, start: int, stop: int) -> Integers:
        """Return samples ``start`` to ``stop`` of the order, as image * repeats + repeat."""
        parts: list[Integers] = []
        block = self._block_at(start)
        while start < stop:
            first, samples = self._block(block)
            part = samples[start - first : stop - first]
            parts.append(part)
            start, block = start + len(part), block + 1
        return np.concatenate(parts) if parts else np.zeros(0, np.int32)

    def _counts_before(self, block: int) -> list[int]:
        """Return how many samples each part gave before a block."""
        return [int(block * BLOCK * share) for share in self._shares]

    def _block_at(self, place: int) -> int:
        """Return the block that holds a place of the order."""
        # Rounding down starts a block early, by at most as many places as there are parts.
        block = place // BLOCK
        while sum(self._counts_before(block + 1)) <= place:
            block += 1
        return block

    def _compute_block(self, block: int) -> tuple[int, Integers]:
        """Return the place where a block begins, and its samples: its parts', in random turns."""
        starts = self._counts_before(block)
        stops = self._counts_before(block + 1)
        numbers = range(len(self._parts))
        samples = np.concatenate([self._parts[n].take(starts[n], stops[n]) for n in numbers])
        # Parts keep their own order: only their turns are shuffled.
        turns = np.repeat(numbers, np.subtract(stops, starts))
        turns = turns[permutation(len(turns), seed_of(self.seed, "block", block))]
        dealt = np.empty_like(samples)
        dealt[np.argsort(turns, kind="stable")] = samples
        return sum(starts), dealt
