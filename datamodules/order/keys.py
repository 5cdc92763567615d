"""Hash of a sequence of keys, and the first key that occurs twice."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from degradations.seeds import CODING


def digest_of(keys: Sequence[str]) -> str:
    """Return the hash of keys in order, as hexadecimal digits."""
    return hashlib.blake2b("\n".join(keys).encode(*CODING), digest_size=8).hexdigest()


def first_duplicate(keys: Sequence[str]) -> str | None:
    """Return the first key that occurred before; None if all differ."""
    seen = set[str]()
    for key in keys:
        if key in seen:
            return key
        seen.add(key)
    return None
