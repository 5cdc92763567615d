"""Arrays of levels; a large one is in a file without a name, not in memory."""

from __future__ import annotations

import math
import mmap
import os
import tempfile
from pathlib import Path
from typing import Any, cast

import numpy as np

from files.images.deep import Pixels

LARGE = 50_000_000  # bytes


def empty(shape: tuple[int, ...], dtype: str, folder: Path) -> Pixels:
    """Return an array to fill.

    Args:
        shape: (H, W, C).
        dtype: uint8 or uint16.
        folder: Where a large one is stored, until it is forgotten or this process ends.

    Raises:
        OSError: The disk is full.
    """
    size = math.prod(shape) * np.dtype(dtype).itemsize
    if size <= LARGE:
        return np.empty(shape, dtype)
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=folder) as file:
        if hasattr(os, "posix_fallocate"):  # not on macOS
            # A disk that is full later, when a page is written, would kill this process.
            os.posix_fallocate(file.fileno(), 0, size)
        else:
            os.ftruncate(file.fileno(), size)
        return np.memmap(file, dtype, "r+", shape=shape)


def give_back(pixels: Pixels) -> None:
    """Give back the memory of a large array, which its file keeps: it would count as in use."""
    if isinstance(pixels, np.memmap):
        cast(Any, pixels.base).madvise(mmap.MADV_DONTNEED)
