"""Images in groups, shuffled over and over: the order of one source, computed where it is needed.

A pass goes through every virtual sample (an image, or one of its repeats) once: groups are
shuffled, and samples within a window of so many groups. Pass follows pass without an end, so a
place in the order is one number, and whatever lies there is found without going through what lies
before it.
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
    """Groups that a reader needs from some place of the order on.

    now: Those of the window it is in, by their first use.
    next: Those of the window after it.
    until: The place where it leaves the window it is in.
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
        window: Samples are shuffled within so many groups.
        seed: Of the order.
        first_group: What the first of these groups is called, where they are some of many.
        first_picture: The same for images.
        keep: Number of windows that are kept once they were computed; no more than two epochs
            have.
        epoch: Places of the order that an epoch takes; by default a pass.
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
        # A set in few windows, as a folder in one, would otherwise keep those of many past epochs.
        passes = 2 if epoch is None else -(-2 * epoch // max(1, self.length))
        keep = min(keep, passes * -(-len(self._sizes) // window) + 2)
        self._pass = lru_cache(keep)(self._new_pass)
        self._window = lru_cache(keep)(self._new_window)

    def take(self, start: int, stop: int) -> Integers:
        """Virtual samples ``start`` to ``stop`` of the order, as image * repeats + repeat."""
        parts: list[Integers] = []
        while start < stop:
            number, window, first, end = self._at(start)
            here = min(stop, end)
            parts.append(self._window(number, window)[start - first : here - first])
            start = here
        return np.concatenate(parts) if parts else np.zeros(0, self._type)

    def ahead(self, start: int, stop: int) -> Ahead:
        """The groups that are needed next by a reader at ``start`` who goes as far as ``stop``."""
        number, window, first, end = self._at(start)
        samples = self._window(number, window)[start - first : min(stop, end) - first]
        groups = np.searchsorted(self._starts, self._pictures(samples), "right") - 1
        names, uses = np.unique(groups, return_index=True)
        now = names[np.argsort(uses)] + self.first_group
        following = self._groups(*self._at(end)[:2]) + self.first_group if end < stop else now[:0]
        return Ahead(now.tolist(), following.tolist(), end)

    def groups_at(self, start: int) -> list[int]:
        """Groups of the window that ``start`` is in, without working out its samples."""
        return (self._groups(*self._at(start)[:2]) + self.first_group).tolist()

    def _pictures(self, samples: Integers) -> Integers:
        return samples // self.repeats - self.first_picture

    def _at(self, place: int) -> tuple[int, int, int, int]:
        """Number of the pass, number of the window in it, and where in the order that one lies."""
        number, within = divmod(place, self.length)
        ends = self._pass(number).ends
        window = int(np.searchsorted(ends, within, "right"))
        begin = int(ends[window - 1]) if window else 0
        return number, window, place - within + begin, place - within + int(ends[window])

    def _groups(self, number: int, window: int) -> NDArray[np.int64]:
        """The groups of a window that hold anything."""
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
    """A shuffled range: the same in every release of NumPy, whose own generators promise nothing.

    A run that is continued a year later must not change its order.
    """
    with np.errstate(over="ignore"):
        keys = mix(np.uint64(seed) + np.arange(n, dtype=np.uint64) * np.uint64(GAMMA))
    return np.argsort(keys)  # `mix` is one to one: no two keys are equal, and any sort will do
