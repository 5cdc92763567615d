"""Millions of keys and names shared by forked processes."""

from __future__ import annotations

import hashlib
from abc import abstractmethod
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from itertools import accumulate, pairwise
from typing import overload

import numpy as np
import xxhash
from numpy.typing import NDArray

from degradations.seeds import CODING


class _Texts(Sequence[str]):
    """A sequence of strings that equals every other one with the same strings."""

    @abstractmethod
    def text(self, number: int) -> str:
        """Return a string; ``number`` is in {0, ..., len - 1}."""

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: int | slice) -> str | list[str]:
        """Return a string, or a list of strings."""
        if isinstance(index, slice):
            return [self.text(number) for number in range(*index.indices(len(self)))]
        number = index + len(self) if index < 0 else index
        if not 0 <= number < len(self):
            raise IndexError(f"there is no name {index} among {len(self)}")
        return self.text(number)

    def __eq__(self, other: object) -> bool:
        if isinstance(other, Sequence) and not isinstance(other, str):
            return len(self) == len(other) and all(a == b for a, b in zip(self, other, strict=True))
        return NotImplemented

    __hash__ = None  # type: ignore[assignment]  # as a list


class Names(_Texts):
    r"""A sequence of strings, stored as the bytes of ``"\n".join(texts)`` and their starts.

    A list of a million ``str`` takes 60 MB in each process: reference counting writes to the pages,
    so forked processes do not share them.

    Args:
        blob: (bytes,) uint8: the texts in UTF-8, with one byte between two texts.
        starts: (n + 1,) unsigned integers: the start of each text; the last is ``len(blob) + 1``.
    """

    def __init__(self, blob: NDArray[np.uint8], starts: NDArray[np.unsignedinteger]) -> None:
        self.blob, self.starts = blob, starts
        self._view = memoryview(blob)  # type: ignore[arg-type]

    @classmethod
    def of(cls, texts: Iterable[str]) -> Names:
        """Return the names of an iterable, which is iterated over once."""
        parts = [text.encode(*CODING) for text in texts]
        ends = np.cumsum([0] + [len(part) + 1 for part in parts])
        kind = np.uint32 if ends[-1] < 1 << 32 else np.uint64
        return cls(np.frombuffer(b"\n".join(parts), np.uint8), ends.astype(kind))

    @classmethod
    def concatenate(cls, parts: Sequence[Names]) -> Names:
        """Concatenate sequences, without decoding their texts."""
        parts = [part for part in parts if len(part)]
        blobs, starts, before = [], [np.zeros(1, np.int64)], 0
        for part in parts:
            blobs += [part.blob, np.frombuffer(b"\n", np.uint8)]
            starts.append(part.starts[1:].astype(np.int64) + before)
            before = int(starts[-1][-1])
        kind = np.uint32 if before < 1 << 32 else np.uint64
        blob = np.concatenate(blobs[:-1]) if blobs else np.zeros(0, np.uint8)
        return cls(blob, np.concatenate(starts).astype(kind))

    def __reduce__(
        self,
    ) -> tuple[type[Names], tuple[NDArray[np.uint8], NDArray[np.unsignedinteger]]]:
        return Names, (self.blob, self.starts)

    def __len__(self) -> int:
        """Number of names."""
        return len(self.starts) - 1

    def text(self, number: int) -> str:
        """Return a name."""
        start, end = int(self.starts[number]), int(self.starts[number + 1]) - 1
        return str(self._view[start:end], *CODING)

    def __iter__(self) -> Iterator[str]:
        """Iterate over all names in order."""
        return (str(part, *CODING) for part in self._parts())

    @cached_property  # it takes a second for a million, and has several callers
    def duplicate(self) -> str | None:
        """The first name that occurred before; None if all differ."""
        hashed = np.fromiter(
            map(xxhash.xxh3_64_intdigest, self._parts()), dtype=np.uint64, count=len(self)
        )
        order = np.argsort(hashed, kind="stable")
        again = hashed[order[1:]] == hashed[order[:-1]]
        for number in np.sort(order[1:][again]).tolist():
            equal = np.flatnonzero(hashed[:number] == hashed[number])
            if any(self[earlier] == self[number] for earlier in equal.tolist()):
                return self[number]
        return None

    def digest(self) -> str:
        r"""Return the 8-byte blake2b hash of ``"\n".join(names)``."""
        return hashlib.blake2b(self._view, digest_size=8).hexdigest()

    def _parts(self) -> Iterator[memoryview]:
        for first in range(0, len(self), 1 << 16):
            starts = self.starts[first : first + (1 << 16) + 1].tolist()
            yield from (self._view[a : b - 1] for a, b in pairwise(starts))


class Keys(_Texts):
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

    def text(self, number: int) -> str:
        """Return a key."""
        source, within = self.place(number)
        return f"{self._names[source]}/{self._keys[source][within]}"

    def __iter__(self) -> Iterator[str]:
        """Iterate over all keys in order."""
        for name, keys in zip(self._names, self._keys, strict=True):
            yield from (f"{name}/{key}" for key in keys)

    def place(self, number: int) -> tuple[int, int]:
        """Return the number of a key's source, and the key's number in it."""
        source = bisect_right(self._ends, number)
        return source, number - (self._ends[source - 1] if source else 0)

    @property
    def duplicate(self) -> str | None:
        """A key that occurs twice; None if all differ."""
        for name, keys in zip(self._names, self._keys, strict=True):  # names are distinct
            if (twice := _compact(keys).duplicate) is not None:
                return f"{name}/{twice}"
        return None

    def digest(self) -> str:
        """Return the hash of all sources' names and keys in order."""
        parts = [f"{n}/{digest_of(k)}" for n, k in zip(self._names, self._keys, strict=True)]
        return digest_of(parts)


def digest_of(keys: Sequence[str]) -> str:
    """Return the hash of keys in order, as hexadecimal digits."""
    return _compact(keys).digest()


def _compact(keys: Sequence[str]) -> Names | Keys:
    return keys if isinstance(keys, Names | Keys) else Names.of(keys)
