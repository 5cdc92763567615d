"""Tiles of one image on all processes: each makes every n-th group, and all get all of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

Group = TypeVar("Group")


class Together(Generic[Group]):
    """Make outputs in turn on all processes, as one process would make them.

    It is called for all groups in order, by all processes. In each turn every process makes one,
    then all are sent to all. The outputs are bit for bit those of one process on the same kind of
    device.

    Args:
        make: Makes the output of a group.
        groups: All groups.
        blank: Returns an empty tensor of the size, type and device of a group's output.
    """

    def __init__(
        self,
        make: Callable[[Group], Tensor],
        groups: Sequence[Group],
        blank: Callable[[Group], Tensor],
    ) -> None:
        self._make, self._groups, self._blank = make, groups, blank
        self._rank, self._count = dist.get_rank(), dist.get_world_size()
        self._next = 0
        self._own: Tensor | None = None

    def __call__(self, group: Group) -> Tensor:
        """Return the output of the next group.

        Raises:
            torch.OutOfMemoryError: In all processes, if the memory of one is full.
        """
        number, self._next = self._next, self._next + 1
        maker = number % self._count
        if maker == 0:
            self._turn(number + self._rank)
        made = self._blank(group) if maker != self._rank or self._own is None else self._own
        dist.broadcast(made, maker)
        return made

    def _turn(self, number: int) -> None:
        self._own, full = None, False
        try:
            if number < len(self._groups):
                self._own = self._make(self._groups[number]).contiguous()
        except torch.OutOfMemoryError:
            full = True
        any_full = self._blank(self._groups[0]).new_tensor([float(full)])
        dist.all_reduce(any_full, dist.ReduceOp.MAX)
        if any_full.item():
            raise torch.OutOfMemoryError(
                "tiles do not fit into the memory of all processes: set a smaller tiling.size"
            )


def check_same(what: object) -> None:
    """Check that all processes work on the same image.

    Args:
        what: Its key and sizes.

    Raises:
        ValueError: In all processes, if they do not.
    """
    found: list[object] = [None] * dist.get_world_size()
    dist.all_gather_object(found, what)
    if any(other != what for other in found):
        raise ValueError(
            f"tiling.together is true, and the processes got different images: {found}: each must "
            "get all of them, as datamodules.SRDataModule gives them"
        )
