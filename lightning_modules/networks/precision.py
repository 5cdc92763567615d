"""Autoencoders at any ``trainer.precision``: float32 weights, and no overflow in fp16."""

from __future__ import annotations

from collections.abc import Callable
from typing import Self, TypeVar

import torch
from torch import Tensor, nn

T = TypeVar("T")


class Float32(nn.Module):
    """Base class of modules whose weights stay in float32 in bf16-true and 16-true."""

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        # Otherwise rounding would flip codes, which are signs near zero, and decoders would add an
        # error that no denoiser corrects. Images are float32 anyway.
        def moved(tensor: Tensor) -> Tensor:
            found = fn(tensor)
            return found if found.dtype == tensor.dtype else tensor.to(found.device)

        found: Self = super()._apply(moved, recurse)  # type: ignore[no-untyped-call]
        return found


def without_fp16(network: Callable[[Tensor], T], x: Tensor) -> T:
    """Apply a network, in float32 under fp16 autocast, whose largest number is 65,504.

    Args:
        network: The network, with float32 weights.
        x: The input.
    """
    kind = x.device.type
    if not torch.is_autocast_enabled(kind) or torch.get_autocast_dtype(kind) != torch.float16:
        return network(x)
    with torch.autocast(kind, enabled=False):
        return network(x.float())
