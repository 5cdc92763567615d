"""Memory and disk that are free, and the refusal of what needs more."""

from __future__ import annotations

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
    try:
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
    except (OSError, KeyError, ValueError):
        pass  # another system, or no limit
    return free


def refuse_whole(size: tuple[int, int], bytes_per_pixel: int, device: torch.device) -> None:
    """Refuse an output that must be in memory as a whole, if that is not free.

    Args:
        size: (H, W).
        bytes_per_pixel: What it takes.
        device: Where.

    Raises:
        MemoryError: With the numbers.
    """
    needed = bytes_per_pixel * size[0] * size[1]
    _refuse(size, needed, free_memory(device), "of memory")


def free_disk(folder: Path) -> int:
    """Return the free bytes of a folder's disk; it, or parts of its path, may be missing."""
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free


def refuse_file(size: tuple[int, int], needed: int, folder: Path) -> None:
    """Refuse an output that cannot fit on the disk.

    Args:
        size: (H, W).
        needed: Bytes that it takes.
        folder: Where it will be; it, or parts of its path, may be missing.

    Raises:
        MemoryError: With the numbers.
    """
    _refuse(size, needed, free_disk(folder), "on the disk")


def _refuse(size: tuple[int, int], needed: float, free: int, where: str) -> None:
    if needed > free:
        raise MemoryError(
            f"an output of {size[1]} x {size[0]} pixels needs {needed / 1e9:.1f} GB {where}, and "
            f"{free / 1e9:.1f} are free"
        )
