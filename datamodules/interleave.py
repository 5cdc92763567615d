"""Sources mixed by weight: one endless sequence in which each source has its exact share.

Source i follows its own endless order (``shuffle.py``), so it gives every image once before any
image again. The mixture takes from the sources in blocks of about 256 places: by the end of block
b, source i gave floor(256 b w_i) samples, where w_i is its share. Places within a block are
shuffled. So a source's share is exact to one sample at each block's end, and nothing is drawn with
replacement.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from functools import lru_cache
from itertools import accumulate, chain, pairwise, zip_longest
from math import ceil
from typing import NamedTuple

import numpy as np

from datamodules.shuffle import Ahead, Integers, Shuffle, permutation
from degradations.draws import seed_of

BLOCK = 256


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
        """Return the mixture with ``count`` samples for each image."""
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
        self._shares = [weight / sum(weights) for weight in weights]
        firsts, epoch = [0, *accumulate(mixture.groups)], mixture.samples * repeats
        self._parts = [
            Shuffle(
                groups[first:end],
                repeats,
                window,
                seed_of(seed, "part", number),
                first_group=first,
                first_picture=sum(groups[:first]),
                keep=keep,
                epoch=ceil(epoch * share),
            )
            for number, (share, (first, end)) in enumerate(
                zip(self._shares, pairwise(firsts), strict=True)
            )
        ]
        self._repeats, self._group_ends = repeats, np.cumsum(groups)
        self._block = lru_cache(2 * keep)(self._new_block)

    def take(self, start: int, stop: int) -> Integers:
        """Return samples ``start`` to ``stop`` of the order, as image * repeats + repeat."""
        parts: list[Integers] = []
        block = self._block_of(start)
        while start < stop:
            first, samples = self._block(block)
            part = samples[start - first : stop - first]
            parts.append(part)
            start, block = start + len(part), block + 1
        return np.concatenate(parts) if parts else np.zeros(0, np.int32)

    def ahead(self, start: int, stop: int) -> Ahead:
        """Return the groups that a reader from ``start`` to ``stop`` needs next."""
        block = self._block_of(start)
        first, samples = self._block(block)
        end = first + len(samples)  # of this block, whose samples give the groups
        now, following, until = [self._groups_of(samples[start - first : stop - first])], [], stop
        if end < stop:
            given, last = self._given(block + 1), self._given(self._block_of(stop) + 1)
            spots = [
                part.ahead(*ends) for part, *ends in zip(self._parts, given, last, strict=True)
            ]
            now += [spot.now for spot in spots]
            following = [spot.next for spot in spots]
            # The last block before a part moves to another window.
            ends = zip(spots, self._shares, strict=True)
            whole = min(-(-(spot.until + 1) // (BLOCK * share)) - 1 for spot, share in ends)
            until = min(stop, max(end, sum(self._given(whole))))
        return Ahead(_dealt(now), _dealt(following), until)

    def groups_at(self, start: int) -> list[int]:
        """Return the groups of the windows at ``start``, without computing their samples."""
        given = self._given(self._block_of(start))
        return [g for part, at in zip(self._parts, given, strict=True) for g in part.groups_at(at)]

    def _groups_of(self, samples: Integers) -> list[int]:
        groups = np.searchsorted(self._group_ends, samples // self._repeats, "right")
        return list(dict.fromkeys(groups.tolist()))

    def _given(self, block: int) -> list[int]:
        """Return how many samples each part gave before a block."""
        return [int(block * BLOCK * share) for share in self._shares]

    def _block_of(self, place: int) -> int:
        # Rounding down starts a block early, by at most as many places as there are parts.
        block = place // BLOCK
        while sum(self._given(block + 1)) <= place:
            block += 1
        return block

    def _new_block(self, block: int) -> tuple[int, Integers]:
        """Return the start of a block, and its samples."""
        given, then = self._given(block), self._given(block + 1)
        parts = [part.take(*ends) for part, *ends in zip(self._parts, given, then, strict=True)]
        samples = np.concatenate(parts)
        # Parts keep their own order: only their turns are shuffled.
        turns = np.repeat(np.arange(len(parts)), [len(part) for part in parts])
        turns = turns[permutation(len(turns), seed_of(self.seed, "block", block))]
        dealt = np.empty_like(samples)
        dealt[np.argsort(turns, kind="stable")] = samples
        return sum(given), dealt


def _dealt(lists: list[list[int]]) -> list[int]:
    """Take from the lists in turn, each value once."""
    return [item for item in dict.fromkeys(chain(*zip_longest(*lists))) if item is not None]
