"""Time and memory of one picture in ``predict``."""

from __future__ import annotations

import time
from pathlib import Path
from typing import NamedTuple

import torch

STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
FORGET_PEAK = "5"  # what Linux wants to hear there


class Used(NamedTuple):
    """What a picture took.

    seconds: Of the clock on the wall.
    peak_memory: Bytes; None where nothing tells.
    """

    seconds: float
    peak_memory: int | None


class Meter:
    """Measures from ``start`` to ``stop``.

    On a GPU, memory is the most that tensors took at once. On a CPU it is the most that the process
    had, which includes the weights, the libraries, and what is kept of earlier pictures; only Linux
    tells.
    """

    def __init__(self) -> None:
        self._device = torch.device("cpu")
        self._began = 0.0
        self._told = False  # whether the system forgot the peak of what was before

    def start(self, device: torch.device) -> None:
        """Begin with a picture; the device has nothing left to do.

        Args:
            device: Where the model is.
        """
        self._device = device
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        else:
            self._told = _forget_peak()
        self._began = time.perf_counter()

    def stop(self) -> Used:
        """What was used since ``start``; the picture has come back to the host."""
        seconds = time.perf_counter() - self._began
        if self._device.type == "cuda":
            return Used(seconds, torch.cuda.max_memory_allocated(self._device))
        return Used(seconds, _peak() if self._device.type == "cpu" and self._told else None)


def _forget_peak() -> bool:
    try:
        CLEAR.write_text(FORGET_PEAK, encoding="utf-8")
    except OSError:  # no Linux, or a sandbox
        return False
    return True


def _peak() -> int | None:
    try:
        lines = STATUS.read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    found = [line.split()[1] for line in lines if line.startswith("VmHWM:")]
    return 1024 * int(found[0]) if found else None
