"""Arrays of levels; a large one is in a file without a name, not in memory."""

from __future__ import annotations

import errno
import mmap
import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from files.images.deep import Pixels
from files.memory import refuse_whole
from files.owned import refuse_moved

LARGE = 50_000_000  # bytes
FULL = (errno.ENOSPC, errno.EDQUOT)


def empty(shape: tuple[int, int, int], dtype: str, folder: Path) -> Pixels:
    """Return an array to fill: in memory, or from ``LARGE`` bytes on in an unnamed file.

    Args:
        shape: (H, W, C).
        dtype: uint8 or uint16.
        folder: Where a large one is stored, until it is forgotten or this process ends.

    Raises:
        OSError: The disk is full, or the folder was moved.
        MemoryError: The disk cannot map files, and there is no memory for it.
    """
    height, width, channels = shape
    pixel = channels * np.dtype(dtype).itemsize
    size = height * width * pixel
    if size <= LARGE:
        return np.empty(shape, dtype)
    refuse_moved(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=folder) as file:
        try:
            if hasattr(os, "posix_fallocate"):  # not on macOS
                # A disk that is full later, when a page is written, would kill this process.
                os.posix_fallocate(file.fileno(), 0, size)
            else:
                os.ftruncate(file.fileno(), size)
            return np.memmap(file, dtype, "r+", shape=shape)
        except OSError as error:
            if error.errno in FULL:
                raise
    # Some network disks cannot map a file.
    refuse_whole((height, width), pixel, torch.device("cpu"))
    return np.empty(shape, dtype)


def give_back(pixels: Pixels) -> None:
    """Let the system free the memory of a large array of ``empty``, whose file keeps the levels.

    Otherwise the pages that were written would count as memory in use. An array in memory, or a
    part of an array, stays as it is.
    """
    base: Any = pixels.base
    if isinstance(base, mmap.mmap):  # the whole array, not a part of it
        base.madvise(mmap.MADV_DONTNEED)
