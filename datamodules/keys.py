"""Sequences of keys that are made on demand, so no process holds a million strings."""

from __future__ import annotations

import hashlib
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from itertools import accumulate
from typing import overload

from datamodules.names import Names
from degradations.draws import CODING


class Keys(Sequence[str]):
    """The keys of one or several sources, prefixed with the source's name: ``set5/0001``.

    Args:
        sources: Keys by the source's name.
    """

    def __init__(self, sources: Mapping[str, Sequence[str]]) -> None:
        self._names, self._keys = list(sources), list(sources.values())
        self._ends = list(accumulate(len(keys) for keys in self._keys))

    def __len__(self) -> int:
        """Number of keys."""
        return self._ends[-1] if self._ends else 0

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: int | slice) -> str | list[str]:
        """Return a key, or a list of keys."""
        if isinstance(index, slice):
            return [self[number] for number in range(*index.indices(len(self)))]
        number, within = self.place(index)
        return f"{self._names[number]}/{self._keys[number][within]}"

    def __iter__(self) -> Iterator[str]:
        """Iterate over all keys in order."""
        for name, keys in zip(self._names, self._keys, strict=True):
            yield from (f"{name}/{key}" for key in keys)

    def __eq__(self, other: object) -> bool:
        if isinstance(other, Sequence) and not isinstance(other, str):
            return len(self) == len(other) and all(a == b for a, b in zip(self, other, strict=True))
        return NotImplemented

    __hash__ = None  # type: ignore[assignment]  # as a list

    def place(self, index: int) -> tuple[int, int]:
        """Return the number of a key's source, and the key's number in it.

        Raises:
            IndexError: If there is no such key.
        """
        number = index + len(self) if index < 0 else index
        if not 0 <= number < len(self):
            raise IndexError(f"there is no key {index} among {len(self)}")
        source = bisect_right(self._ends, number)
        return source, number - (self._ends[source - 1] if source else 0)

    def duplicates(self) -> str | None:
        """Return a key that occurs twice; None if all differ."""
        for name, keys in zip(self._names, self._keys, strict=True):  # names are distinct
            twice = first_duplicate(keys)
            if twice is not None:
                return f"{name}/{twice}"
        return None

    def digest(self) -> str:
        """Return the hash of all sources' names and keys in order."""
        parts = [f"{n}/{digest_of(k)}" for n, k in zip(self._names, self._keys, strict=True)]
        return digest_of(parts)


def first_duplicate(keys: Sequence[str]) -> str | None:
    """Return a key that occurs twice; None if all differ."""
    if isinstance(keys, Names | Keys):
        return keys.duplicates()
    seen: set[str] = set()
    for key in keys:
        if key in seen:
            return key
        seen.add(key)
    return None


def digest_of(keys: Sequence[str]) -> str:
    """Return the hash of keys in order, as hexadecimal digits."""
    if isinstance(keys, Names | Keys):
        return keys.digest()
    return hashlib.blake2b("\n".join(keys).encode(*CODING), digest_size=8).hexdigest()
