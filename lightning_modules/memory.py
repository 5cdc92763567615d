"""How much memory is free, and how much a piece of work takes."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakIdKeyDictionary

# Of version 2 of Linux's control groups and of version 1: limit, use, and what of that use in
# `memory.stat` is files nobody has read lately, which make room as soon as memory is asked for.
GROUP_FILES = (
    ("memory.max", "memory.current", "inactive_file"),
    ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
)


def free_bytes(device: torch.device) -> int | None:
    """Memory that is still to be had on a device; None where that is not known.

    On a graphics card what torch keeps for later counts as free; on a CPU a container's limit
    holds, where it is below what the machine has.
    """
    if device.type == "cuda":
        kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(torch.cuda.mem_get_info(device)[0]) + kept
    return free_on_host() if device.type == "cpu" else None


def free_on_host(root: Path = Path("/")) -> int | None:
    """The same of the machine's own memory.

    Args:
        root: Where Linux shows its files; another place in tests.
    """
    found = []
    for line in _lines(root / "proc/meminfo"):
        if line.startswith("MemAvailable:"):
            found.append(int(line.split()[1]) * 1024)
    for line in _lines(root / "proc/self/cgroup"):
        _, kinds, path = line.split(":", 2)
        if kinds not in ("", "memory"):
            continue
        place = root / "sys/fs/cgroup" / kinds
        # Within a container the path may be that of the machine outside, and the group the root.
        for group in (place, *(place / part for part in _parents(path))):
            found += _left(group)
    return min(found, default=None)


def peak_bytes(work: Callable[[], object], device: torch.device) -> int:
    """Memory that a piece of work needs beyond what is in use before it.

    On a graphics card by the allocator's book; elsewhere the sum of the tensors that live at the
    same time, which does not know what an operation takes for itself, but is always the same.

    Args:
        work: Done once.
        device: Where.
    """
    if device.type == "cuda":
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        work()
        return int(torch.cuda.max_memory_allocated(device)) - before
    with _Living() as living:
        work()
    return living.peak


class _Living(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Adds up the memory of tensors that are made, from their birth to their end."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.now = self.peak = 0
        self._known = WeakIdKeyDictionary()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> object:
        """Let the operation run, and look at what it made."""
        given = {id(_storage(x)) for x in tree_leaves((args, kwargs)) if _is_dense(x)}
        made = func(*args, **(kwargs or {}))
        for x in tree_leaves(made):
            if not _is_dense(x):
                continue
            storage = _storage(x)
            if id(storage) not in given and storage not in self._known:
                size = storage.nbytes()
                self._known[storage] = size
                self.now += size
                self.peak = max(self.peak, self.now)
                weakref.finalize(storage, self._end, size)
        return made

    def _end(self, size: int) -> None:
        self.now -= size


def _is_dense(x: object) -> bool:
    return isinstance(x, torch.Tensor) and x.layout == torch.strided


def _storage(x: torch.Tensor) -> torch.UntypedStorage:
    return x.untyped_storage()


def _parents(path: str) -> list[str]:
    parts = [part for part in path.split("/") if part and part != ".."]
    return ["/".join(parts[:count]) for count in range(1, len(parts) + 1)]


def _left(group: Path) -> list[int]:
    # What a control group still allows, if it has a limit.
    for limit, used, files in GROUP_FILES:
        numbers = [next(iter(_lines(group / name)), "") for name in (limit, used)]
        if all(number.isdigit() for number in numbers):
            most, now = map(int, numbers)
            stat = dict(line.split(maxsplit=1) for line in _lines(group / "memory.stat"))
            return [max(most - max(now - int(stat.get(files, 0)), 0), 0)]
    return []


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8").splitlines()
    except OSError:
        return []
