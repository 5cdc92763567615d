"""Words and seeds of random streams: pure functions of integers and names, without torch.

Source: Steele, Lea, Flood, "Fast splittable pseudorandom number generators" (OOPSLA 2014); the
constants of `mix` are David Stafford's variant 13, as in Java's SplittableRandom.
"""

from __future__ import annotations

import functools
import hashlib
import operator
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

GAMMA = 0x9E3779B97F4A7C15
CODING = ("utf-8", "surrogatepass")  # names in tars and on disks may not be UTF-8
MULTIPLIERS = (0xBF58476D1CE4E5B9, 0x94D049BB133111EB)
SHIFTS = (30, 27, 31)
Words: TypeAlias = npt.NDArray[np.uint64]
_M1 = np.uint64(MULTIPLIERS[0])
_M2 = np.uint64(MULTIPLIERS[1])
_S1 = np.uint64(SHIFTS[0])
_S2 = np.uint64(SHIFTS[1])
_S3 = np.uint64(SHIFTS[2])


def mix(words: Words) -> Words:
    """Scramble each 64-bit word bijectively (the finaliser of splitmix64)."""
    words = (words ^ (words >> _S1)) * _M1
    words = (words ^ (words >> _S2)) * _M2
    return words ^ (words >> _S3)


@functools.cache
def hash_of_name(name: str) -> np.uint64:
    """Hash the name of a stream."""
    digest = hashlib.blake2b(name.encode(), digest_size=8).digest()
    return np.uint64(int.from_bytes(digest, "little"))


def seed_of(*parts: int | str | bytes) -> int:
    """Hash parts to a seed in [0, 2**63), the same on every machine and in every Python.

    Args:
        parts: Identity of the seed, e.g. `seed_of(run_seed, epoch, position)`. Order, borders and
            types matter: `("ab", "c")`, `("a", "bc")`, `(1,)`, `("1",)` and `(b"1",)` all differ.

    Raises:
        TypeError: A part is not an integer, a string or bytes.
    """
    digest = hashlib.blake2b(digest_size=8)
    for part in parts:
        if isinstance(part, bytes):
            tag = b"b" + part
        elif isinstance(part, str):
            tag = b"s" + part.encode(*CODING)
        else:
            tag = b"i%d" % operator.index(part)
        # With their lengths, so that parts cannot run into one another.
        digest.update(len(tag).to_bytes(8, "little") + tag)
    return int.from_bytes(digest.digest(), "little") >> 1  # fits a signed 64-bit integer
