"""Keep freed memory between steps."""

from __future__ import annotations

import ctypes
import os

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # names of mallopt's parameters, from malloc.h
_LARGEST = 32 << 20  # bytes; glibc takes no larger threshold for maps


def keep_freed_memory() -> None:
    """Make the C library keep the memory of freed tensors for those of the next step.

    By default glibc returns it to the kernel, which clears each page when it is used again: on a
    CPU that costs a third of a step on small images. Forked workers inherit the setting. No effect
    if the user has set ``MALLOC_TRIM_THRESHOLD_`` or ``MALLOC_MMAP_THRESHOLD_``, or with other C
    libraries.
    """
    if any(name.startswith("MALLOC_") for name in os.environ):
        return
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # TypeError: Windows wants a name
        return
    # Setting one alone would turn off glibc's adaptation and leave the other small.
    if mallopt(_MMAP_THRESHOLD, _LARGEST):
        mallopt(_TRIM_THRESHOLD, 1 << 30)
