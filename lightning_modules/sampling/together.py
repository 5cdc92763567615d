"""Tiles of one image on all processes: each makes every n-th group, and all get all of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.distributed as dist
from torch import Tensor

from lightning_modules.noise import Tile

Group = Sequence[Tile]  # of one size, which are made as one batch


class Together:
    """Make tiles in turn on all processes, bit for bit as one process would on such a device.

    All processes call it for all groups in order. In each turn every process makes one group, then
    all groups are sent to all processes.

    Args:
        make: Makes the output (n B, 3, H, W) float32 of a group of n tiles.
        groups: All groups of the image.
        lr: The images (B, 3, h, w).
    """

    def __init__(
        self, make: Callable[[Group], Tensor], groups: Sequence[Group], lr: Tensor
    ) -> None:
        self._make, self._groups, self._lr = make, groups, lr
        self._rank, self._count = dist.get_rank(), dist.get_world_size()
        self._next = 0
        self._own: Tensor | None = None  # what this process made in this turn

    def __call__(self, group: Group) -> Tensor:
        """Return the output of the next group.

        Raises:
            torch.OutOfMemoryError: In all processes, if the memory of one is full.
        """
        number, self._next = self._next, self._next + 1
        maker = number % self._count
        if maker == 0:
            self._turn(number + self._rank)
        made = self._own
        if made is None or maker != self._rank:
            shape = (len(group) * len(self._lr), 3, *group[0].size)
            made = self._lr.new_empty(shape, dtype=torch.float32)
        dist.broadcast(made, maker)
        return made

    def _turn(self, number: int) -> None:
        self._own, full = None, False
        try:
            if number < len(self._groups):
                self._own = self._make(self._groups[number]).contiguous()
        except torch.OutOfMemoryError:
            full = True
        any_full = self._lr.new_tensor(float(full))
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
