"""Memory and disk that are free, and the refusal of what needs more."""

from __future__ import annotations

import contextlib
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # the packer and its workers need no torch
    import torch

UNKNOWN_MEMORY = 4 << 30  # bytes; of systems that do not say what is free
CGROUP = Path("/sys/fs/cgroup")


def free_memory(device: torch.device) -> int:
    """Return the bytes that a device, or this process on the CPU, can still have."""
    if device.type == "cuda":
        import torch

        kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + kept
    free = UNKNOWN_MEMORY
    with contextlib.suppress(OSError, KeyError, ValueError):  # another system, or no limit
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        amounts = dict(line.split(":") for line in lines)
        free = 1024 * int(amounts["MemAvailable"].split()[0])
        limit = (CGROUP / "memory.max").read_text(encoding="ascii")  # of a container
        used = (CGROUP / "memory.current").read_text(encoding="ascii")
        stat = (CGROUP / "memory.stat").read_text(encoding="ascii")
        amounts = dict(line.split() for line in stat.splitlines())
        # What was read and written stays in memory until another use needs the room.
        cached = int(amounts["inactive_file"])
        free = min(free, int(limit) - int(used) + cached)
    return free


def refuse_whole(size: tuple[int, int], bytes_per_pixel: int, device: torch.device) -> None:
    """Raise if a device has too little memory for an output that must be there as a whole.

    Args:
        size: (H, W) of the output.
        bytes_per_pixel: Bytes that each of its pixels takes.
        device: The device.

    Raises:
        MemoryError: With the bytes that are needed and those that are free.
    """
    needed = bytes_per_pixel * size[0] * size[1]
    _refuse_above(free_memory(device), needed, size, "of memory")


def free_disk(folder: Path) -> int:
    """Return the free bytes of a folder's disk; it, or parts of its path, may be missing."""
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free


def refuse_file(size: tuple[int, int], needed: int, folder: Path) -> None:
    """Raise if an output does not fit on the disk.

    Args:
        size: (H, W) of the output, for the message.
        needed: Bytes that its file takes.
        folder: Where it will be; it, or parts of its path, may be missing.

    Raises:
        MemoryError: With the bytes that are needed and those that are free.
    """
    _refuse_above(free_disk(folder), needed, size, "on the disk")


def _refuse_above(free: int, needed: int, size: tuple[int, int], where: str) -> None:
    if needed > free:
        raise MemoryError(
            f"an output of {size[1]} x {size[0]} pixels needs {needed:,} bytes {where}, and "
            f"{free:,} are free"
        )
