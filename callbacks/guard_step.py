"""For Guard: the numbers that a step is judged by, and the buffers that a skipped one restores."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from lightning.pytorch import Trainer
from lightning.pytorch.strategies import FSDPStrategy, ModelParallelStrategy
from torch import Tensor, nn
from torch.nn.utils import get_total_norm

from callbacks.processes import several


class Loss(NamedTuple):
    """A scalar on the device, and its images."""

    keys: Sequence[str]
    value: Tensor


class Statistics:
    """The buffers of a model after its last good step; a forward pass changes those of its norms.

    Args:
        module: The model.
    """

    def __init__(self, module: nn.Module) -> None:
        parts = [part._buffers for part in module.modules()]
        self._places = [(buffers, name) for buffers in parts for name in buffers]
        self._kept: list[Tensor | None] = []
        self.keep()

    def keep(self) -> None:
        """Store the buffers after a good step."""
        now = [buffers.get(name) for buffers, name in self._places]
        if len(self._kept) < len(now) or not all(map(_alike, self._kept, now)):
            self._kept = [None if buffer is None else buffer.detach().clone() for buffer in now]
            return
        kept, there = ([b for b in buffers if b is not None] for buffers in (self._kept, now))
        if kept:
            torch._foreach_copy_(kept, there)

    def restore(self) -> None:
        """Restore the stored buffers."""
        for (buffers, name), kept in zip(self._places, self._kept, strict=True):
            now = buffers.get(name)
            if not _alike(now, kept):
                buffers[name] = None if kept is None else kept.clone()
            elif now is not None and kept is not None and not torch.equal(now, kept):
                now.copy_(kept)  # constants are not written: they may be read-only views


def _alike(one: Tensor | None, other: Tensor | None) -> bool:
    # A buffer may appear, disappear, or change its size.
    if one is None or other is None:
        return one is other
    return one.shape == other.shape


def reduce_loss_and_norm(
    losses: list[Loss], optimizer: Any, trainer: Trainer
) -> tuple[float, float]:
    """Return the sum of all losses of a step and the gradient's norm, of all processes together."""
    device = trainer.strategy.root_device
    gradients = [
        local_part(parameter.grad)
        for group in optimizer.param_groups
        for parameter in group["params"]
        if parameter.grad is not None
    ]
    norm = get_total_norm(gradients).to(device, torch.float32)
    values = [loss.value.to(device, torch.float32) for loss in losses]
    loss = torch.stack(values).sum() if values else torch.zeros_like(norm)
    both = torch.stack([loss, norm.square()])
    if several():
        dist.all_reduce(both)
    total, square = both.tolist()  # the one place where the host waits
    copies = 1 if is_sharded(trainer) else trainer.world_size
    return total, math.sqrt(square / copies)


def local_part(tensor: Tensor) -> Tensor:
    """Return this process's part of a sharded tensor."""
    part: Tensor = tensor.to_local() if hasattr(tensor, "to_local") else tensor
    return part


def is_sharded(trainer: Trainer) -> bool:
    """Return whether each process holds a part of the parameters only."""
    return isinstance(trainer.strategy, FSDPStrategy | ModelParallelStrategy)
