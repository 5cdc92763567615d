"""Sequences of keys that are made when they are asked for: no process holds a million texts."""

from __future__ import annotations

import hashlib
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from itertools import accumulate
from typing import overload

from datamodules.names import Names
from degradations.draws import CODING


class Keys(Sequence[str]):
    """The keys of one source or several, each behind its source's name: ``set5/0001``.

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
        """A key, or a list of some."""
        if isinstance(index, slice):
            return [self[number] for number in range(*index.indices(len(self)))]
        number, within = self.place(index)
        return f"{self._names[number]}/{self._keys[number][within]}"

    def __iter__(self) -> Iterator[str]:
        """All keys in their order."""
        for name, keys in zip(self._names, self._keys, strict=True):
            yield from (f"{name}/{key}" for key in keys)

    def __eq__(self, other: object) -> bool:
        if isinstance(other, Sequence) and not isinstance(other, str):
            return len(self) == len(other) and all(a == b for a, b in zip(self, other, strict=True))
        return NotImplemented

    __hash__ = None  # type: ignore[assignment]  # as a list

    def place(self, index: int) -> tuple[int, int]:
        """Number of the source of a key, and of the key in it.

        Raises:
            IndexError: There is no such key.
        """
        number = index + len(self) if index < 0 else index
        if not 0 <= number < len(self):
            raise IndexError(f"there is no key {index} among {len(self)}")
        source = bisect_right(self._ends, number)
        return source, number - (self._ends[source - 1] if source else 0)

    def duplicates(self) -> str | None:
        """A key that is there twice; None if all differ."""
        for name, keys in zip(self._names, self._keys, strict=True):  # no two names are equal
            twice = first_duplicate(keys)
            if twice is not None:
                return f"{name}/{twice}"
        return None

    def digest(self) -> str:
        """Hash of all sources' names and keys in their order."""
        parts = [f"{n}/{digest_of(k)}" for n, k in zip(self._names, self._keys, strict=True)]
        return digest_of(parts)


def first_duplicate(keys: Sequence[str]) -> str | None:
    """A key that is there twice; None if all differ."""
    if isinstance(keys, Names | Keys):
        return keys.duplicates()
    seen: set[str] = set()
    for key in keys:
        if key in seen:
            return key
        seen.add(key)
    return None


def digest_of(keys: Sequence[str]) -> str:
    """Hash of keys in their order, as hexadecimal digits."""
    if isinstance(keys, Names | Keys):
        return keys.digest()
    return hashlib.blake2b("\n".join(keys).encode(*CODING), digest_size=8).hexdigest()
