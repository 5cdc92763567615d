"""Tiles of one image on all processes: each makes every n-th group, and all get all of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.distributed as dist
from torch import Tensor

from lightning_modules.noise import Size, Tile
from lightning_modules.sampling.stopping import Stopped

Group = Sequence[Tile]  # of one size, which are made as one batch
FULL = 1000  # an end of a turn, above all numbers of signals


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
        self._made: list[Tensor] = []  # in this turn, by rank

    def __call__(self, group: Group) -> Tensor:
        """Return the output of the next group, (n B, 3, H, W) float32, on all processes.

        Raises:
            torch.OutOfMemoryError: In all processes, if the memory of one is full.
            Stopped: In all processes, if one has received a signal.
        """
        number, self._next = self._next, self._next + 1
        if number % self._count == 0:
            self._made = self._turn(number)
        made = self._made[number % self._count]
        dist.broadcast(made, number % self._count)
        return made

    def _turn(self, first: int) -> list[Tensor]:
        made: list[Tensor] = []
        end = 0  # FULL, or the number of a signal
        try:
            if first == 0:  # the output, which is to have room beside the tiles
                ends = [(tile.rows.out.stop, tile.columns.out.stop) for [*_, tile] in self._groups]
                self._empty(1, (max(y for y, _ in ends), max(x for _, x in ends)))
            turn = self._groups[first : first + self._count]
            made = [self._empty(len(group), group[0].size) for group in turn]
            if self._rank < len(turn):
                made[self._rank] = self._make(turn[self._rank]).contiguous()
        except torch.OutOfMemoryError:
            end = FULL
        except Stopped as stopped:
            end = stopped.number
        shared = self._lr.new_tensor(float(end))
        dist.all_reduce(shared, dist.ReduceOp.MAX)
        end = int(shared)
        if 0 < end < FULL:
            raise Stopped(end, "before its end")
        if end:
            raise torch.OutOfMemoryError(
                "tiles do not fit into the memory of all processes: set a smaller tiling.size"
            )
        return made

    def _empty(self, tiles: int, size: Size) -> Tensor:
        return self._lr.new_empty((tiles * len(self._lr), 3, *size), dtype=torch.float32)


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
