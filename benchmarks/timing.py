"""Seconds of a call, and of several calls in turns, which what else a machine does hits alike."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import torch
from tqdm import tqdm

T = TypeVar("T")


def clock() -> float:
    """Seconds of this process where one thread computes, else on the wall, when a GPU is done."""
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()
        return time.perf_counter()
    return time.process_time() if torch.get_num_threads() == 1 else time.perf_counter()


def seconds(call: Callable[[], Any]) -> float:
    """Time of one call, the device's work included."""
    begun = clock()
    call()
    return clock() - begun


def in_turns(
    columns: Mapping[str, Callable[[int], T]], turns: int, warm: int = 1
) -> dict[str, list[T]]:
    """What each column finds in each turn; each turn begins with another column.

    Args:
        columns: By name what is called with the number of the turn.
        turns: That count.
        warm: Turns before them, with negative numbers.
    """
    names, found = list(columns), {name: list[T]() for name in columns}
    for turn in tqdm(range(-warm, turns), desc=" / ".join(names), leave=False, disable=None):
        first = turn % len(names)
        for name in names[first:] + names[:first]:
            result = columns[name](turn)
            if turn >= 0:
                found[name].append(result)
    return found


def ratio(others: Sequence[float], ours: Sequence[float]) -> float:
    """Median over turns of how many times as fast ours is as the other one."""
    return statistics.median(a / b for a, b in zip(others, ours, strict=True))
