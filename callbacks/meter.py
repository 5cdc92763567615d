"""Time and memory of one image in ``predict``."""

from __future__ import annotations

import time
from pathlib import Path
from typing import NamedTuple

import torch

STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
FORGET_PEAK = "5"  # written to Linux's clear_refs


class Usage(NamedTuple):
    """Time and memory of one image.

    seconds: Wall-clock time.
    peak_memory: Bytes; None if unknown.
    """

    seconds: float
    peak_memory: int | None


class Meter:
    """Measure time and memory from ``start`` to ``stop``.

    On a GPU, memory is the peak of all tensors. On a CPU it is the peak of the process, which
    includes the weights, the libraries, and leftovers of earlier images; only Linux reports it.
    """

    def __init__(self) -> None:
        self._device = torch.device("cpu")
        self._began = 0.0
        self._reset = False  # whether the system reset the earlier peak

    def start(self, device: torch.device) -> None:
        """Start with an image; the device must be idle.

        Args:
            device: The model's device.
        """
        self._device = device
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        else:
            self._reset = _forget_peak()
        self._began = time.perf_counter()

    def stop(self) -> Usage:
        """Return time and memory since ``start``; the image must be on the host."""
        seconds = time.perf_counter() - self._began
        if self._device.type == "cuda":
            return Usage(seconds, torch.cuda.max_memory_allocated(self._device))
        return Usage(seconds, _peak() if self._device.type == "cpu" and self._reset else None)


def _forget_peak() -> bool:
    try:
        CLEAR.write_text(FORGET_PEAK, encoding="utf-8")
    except OSError:  # not Linux, or a sandbox
        return False
    return True


def _peak() -> int | None:
    try:
        lines = STATUS.read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    found = [line.split()[1] for line in lines if line.startswith("VmHWM:")]
    return 1024 * int(found[0]) if found else None
