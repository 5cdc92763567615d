"""The endless shuffled order of one source's images in groups, computed on demand.

A pass takes every sample (an image, or one of its repeats) once: groups are shuffled, and samples
within a window of groups. Passes follow each other without end, so a place in the order is one
number, and its sample is found without computing the places before it.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from degradations.draws import GAMMA, mix, seed_of

Integers = NDArray[np.signedinteger[Any]]


class Ahead(NamedTuple):
    """Groups that a reader needs from a place of the order on.

    now: Groups of the current window, by their first use.
    next: Groups of the next window.
    until: The place where the current window ends.
    """

    now: list[int]
    next: list[int]
    until: int


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
        first_group: Number of the first of these groups, if there are others before them.
        first_picture: Number of the first image, if there are others before.
        keep: Number of computed windows to keep, at most those of two epochs.
        epoch: Places of the order in an epoch; by default a pass.
    """

    def __init__(
        self,
        groups: Sequence[int],
        repeats: int,
        window: int,
        seed: int,
        first_group: int = 0,
        first_picture: int = 0,
        keep: int = 8,
        epoch: int | None = None,
    ) -> None:
        self.repeats, self.window, self.seed = repeats, window, seed
        self.first_group, self.first_picture = first_group, first_picture
        self._sizes = np.asarray(groups, dtype=np.int64)
        self._starts = np.concatenate([[0], np.cumsum(self._sizes)])
        self.length = int(self._starts[-1]) * repeats
        last = first_picture * repeats + self.length
        self._type = np.int32 if last <= 2**31 else np.int64
        # A set with few windows, such as a folder with one, would else keep many past epochs.
        passes = 2 if epoch is None else -(-2 * epoch // max(1, self.length))
        keep = min(keep, passes * -(-len(self._sizes) // window) + 2)
        self._pass = lru_cache(keep)(self._new_pass)
        self._window = lru_cache(keep)(self._new_window)

    def take(self, start: int, stop: int) -> Integers:
        """Return samples ``start`` to ``stop`` of the order, as image * repeats + repeat."""
        parts: list[Integers] = []
        while start < stop:
            number, window, first, end = self._at(start)
            here = min(stop, end)
            parts.append(self._window(number, window)[start - first : here - first])
            start = here
        return np.concatenate(parts) if parts else np.zeros(0, self._type)

    def ahead(self, start: int, stop: int) -> Ahead:
        """Return the groups that a reader from ``start`` to ``stop`` needs next."""
        number, window, first, end = self._at(start)
        samples = self._window(number, window)[start - first : min(stop, end) - first]
        groups = np.searchsorted(self._starts, self._pictures(samples), "right") - 1
        names, uses = np.unique(groups, return_index=True)
        now = names[np.argsort(uses)] + self.first_group
        following = self._groups(*self._at(end)[:2]) + self.first_group if end < stop else now[:0]
        return Ahead(now.tolist(), following.tolist(), end)

    def groups_at(self, start: int) -> list[int]:
        """Return the groups of the window at ``start``, without computing its samples."""
        return (self._groups(*self._at(start)[:2]) + self.first_group).tolist()

    def _pictures(self, samples: Integers) -> Integers:
        return samples // self.repeats - self.first_picture

    def _at(self, place: int) -> tuple[int, int, int, int]:
        """Return the pass, the window in it, and the window's start and end in the order."""
        number, within = divmod(place, self.length)
        ends = self._pass(number).ends
        window = int(np.searchsorted(ends, within, "right"))
        begin = int(ends[window - 1]) if window else 0
        return number, window, place - within + begin, place - within + int(ends[window])

    def _groups(self, number: int, window: int) -> NDArray[np.int64]:
        """Return the groups of a window that are not empty."""
        groups = self._pass(number).order[window * self.window : (window + 1) * self.window]
        return groups[self._sizes[groups] > 0]

    def _new_pass(self, number: int) -> _Pass:
        order = permutation(len(self._sizes), seed_of(self.seed, "shards", number))
        ends = np.cumsum(self._sizes[order]) * self.repeats
        last = np.minimum(np.arange(self.window, len(order) + self.window, self.window), len(order))
        return _Pass(order, ends[last - 1])

    def _new_window(self, number: int, window: int) -> Integers:
        groups = self._groups(number, window)
        sizes = self._sizes[groups] * self.repeats
        shifts = (self._starts[groups] + self.first_picture) * self.repeats
        shifts -= np.cumsum(sizes) - sizes
        samples = np.repeat(shifts.astype(self._type), sizes)
        samples += np.arange(len(samples), dtype=self._type)
        return samples[permutation(len(samples), seed_of(self.seed, "samples", number, window))]


def permutation(n: int, seed: int) -> NDArray[np.int64]:
    """Return a shuffled range that is the same in every release of NumPy.

    NumPy's generators may change between releases, and a resumed run must keep its order.
    """
    with np.errstate(over="ignore"):
        keys = mix(np.uint64(seed) + np.arange(n, dtype=np.uint64) * np.uint64(GAMMA))
    return np.argsort(keys)  # `mix` is a bijection: all keys differ, so any sort works
