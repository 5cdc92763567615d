"""Memory between steps."""

from __future__ import annotations

import ctypes
import os

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # names of mallopt's parameters, from malloc.h
_LARGEST = 32 << 20  # bytes; glibc takes no larger threshold for maps


def keep_freed_memory() -> None:
    """Have the C library keep what tensors give back, for those of the next step.

    By default glibc returns it to the kernel, which clears each page again when it is next used:
    on a CPU that costs a third of a step of small pictures. Worker processes that are forked
    inherit it. Without effect where the user has set one of ``MALLOC_TRIM_THRESHOLD_`` and
    ``MALLOC_MMAP_THRESHOLD_``, and with other C libraries.
    """
    if any(name.startswith("MALLOC_") for name in os.environ):
        return
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # TypeError: Windows wants a name
        return
    # Both: either one alone switches glibc's own adaptation off and leaves the other small.
    if mallopt(_MMAP_THRESHOLD, _LARGEST):
        mallopt(_TRIM_THRESHOLD, 1 << 30)
