"""Collective operations at the end of an evaluation: gather numbers from all processes.

All processes must call each function here.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch
import torch.distributed as dist
import torchmetrics
from torchmetrics.utilities import dim_zero_cat

T = TypeVar("T")


def gather(mine: T) -> list[T]:
    """Return the values of all processes, by rank."""
    if not several():
        return [mine]
    everyones: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(everyones, mine)
    return everyones


def gather_on_first(mine: T) -> list[T]:
    """Return the values of all processes, by rank, on the first; an empty list on the others."""
    if not several():
        return [mine]
    first = dist.get_rank() == 0
    everyones: list[Any] | None = [None] * dist.get_world_size() if first else None
    dist.gather_object(mine, everyones)
    return everyones or []


def on_first(work: Callable[[], T]) -> T:
    """Call ``work`` on the first process and return its result on all; errors are raised on all.

    Args:
        work: Called on the first process only.

    Raises:
        RuntimeError: If it failed; the first process raises the error itself.
    """
    if not several():
        return work()
    sent: list[Any] = [None, None]
    error: BaseException | None = None
    if dist.get_rank() == 0:
        try:
            sent[0] = work()
        except Exception as caught:  # whatever it is, the others must not wait forever
            error, sent[1] = caught, f"{type(caught).__name__} on the first process: {caught}"
    dist.broadcast_object_list(sent)
    if error is not None:
        raise error
    if sent[1] is not None:
        raise RuntimeError(sent[1])
    return sent[0]


def on_all(work: Callable[[], T]) -> list[T]:
    """Call ``work`` on each process and return all results by rank; errors are raised on all.

    Args:
        work: Called on every process.

    Raises:
        RuntimeError: If it failed on another process; a failing process raises its own error.
    """
    error: Exception | None = None
    mine: tuple[T | None, str] = (None, "")
    try:
        mine = work(), ""
    except Exception as caught:  # whatever it is, the others must not wait forever
        error, mine = caught, (None, f"{type(caught).__name__}: {caught}")
    everyones = gather(mine)
    if error is not None:
        raise error
    for rank, (_, problem) in enumerate(everyones):
        if problem:
            raise RuntimeError(f"process {rank} failed: {problem}")
    return [found for found, _ in everyones]  # type: ignore[misc]  # without an error, no None


def sync_states(metric: torchmetrics.Metric) -> None:
    """Reduce the states of a metric to the first process by their ``dist_reduce_fx``.

    The first process then holds the states of all images; the others keep their own. Processes may
    have different numbers of updates, of any shapes, or none.

    Raises:
        RuntimeError: If the states cannot be reduced; raised on all processes.
    """
    if not several():
        return
    # torchmetrics' own sync needs equal numbers, dimensions and types of tensors, which a process
    # without images cannot know.
    mine = {name: _moved(state, "cpu") for name, state in metric.metric_state.items()}
    everyones = gather_on_first((mine, metric.update_count))

    def reduce() -> None:
        for name, reduction in metric._reductions.items() if everyones else ():
            parts: Any = [_moved(states[name], metric.device) for states, _ in everyones]
            if isinstance(parts[0], list):  # of tensors of any shape; it stays a list
                parts = [x for part in parts for x in part]
                reduction = None if reduction is dim_zero_cat else reduction
            else:
                parts = torch.stack(parts)
            setattr(metric, name, reduction(parts) if callable(reduction) else parts)
        metric._update_count = sum(count for _, count in everyones) or metric.update_count

    on_all(reduce)


def _moved(state: Any, device: torch.device | str) -> Any:
    return [x.to(device) for x in state] if isinstance(state, list) else state.to(device)


def several() -> bool:
    """Return whether there is more than one process."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1
