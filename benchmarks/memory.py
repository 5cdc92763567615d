"""Peak memory of a block of code: on a GPU by torch's own count, else by the system's."""

from __future__ import annotations

import contextlib
import ctypes
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch


class Peak:
    """The most memory that is in use from now on, beside what is now.

    Args:
        device: Whose; of a CPU, the resident memory of this process.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
            self._before = float(torch.cuda.memory_allocated(device))
            return
        try:
            give_back()
            Path("/proc/self/clear_refs").write_text(
                "5", encoding="utf-8"
            )  # the peak is what it is now
            self._before = resident()
        except OSError:
            self._before = math.nan

    def reached(self) -> float:
        """MiB; not a number where the system does not say it."""
        if self.device.type == "cuda":
            return (torch.cuda.max_memory_allocated(self.device) - self._before) / 2**20
        return (
            math.nan
            if math.isnan(self._before)
            else (_of_this_process("VmHWM") - self._before) / 2**20
        )


def peak_mib(call: Callable[[], Any], device: torch.device, times: int = 1) -> float | None:
    """The most memory that calls take beside what is in use; None where the system does not say it.

    Args:
        call: What is done.
        device: Whose memory.
        times: How often: a CUDA graph has its memory from the second call on, in which it is made.
    """
    peak = Peak(device)
    for _ in range(times):
        call()
    reached = peak.reached()
    return None if math.isnan(reached) else round(reached, 1)


def held(device: torch.device) -> float:
    """Bytes that are in use now: of a CPU, all that this process has; not a number if unknown."""
    if device.type == "cuda":
        return float(torch.cuda.memory_allocated(device))
    give_back()
    return resident()


def give_back() -> None:
    """Return what the heap has free, so that what is used next is seen: glibc keeps it."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


def resident() -> float:
    """Bytes of this process that are in memory; not a number where nobody says it."""
    try:
        return _of_this_process("VmRSS")
    except OSError:
        return math.nan


def _of_this_process(name: str) -> float:
    for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
        if line.startswith(f"{name}:"):
            return 1024.0 * int(line.split()[1])
    return math.nan
