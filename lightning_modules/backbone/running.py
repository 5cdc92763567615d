"""How a network runs: frozen, compiled, in another number type or memory layout."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, get_args

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

Precision = Literal["float32", "bfloat16", "float16"]


@dataclass(frozen=True)
class Flags:
    """How a network runs.

    Args:
        frozen: Never train it: evaluation mode, no gradients of its weights, and only its source in
            checkpoints.
        channels_last: Keep images and weights in the memory layout in which convolutions are
            fastest on a GPU.
        gradient_checkpointing: Recompute the blocks in the backward pass instead of storing their
            activations: less memory, a third more time.
        compile: Compile it with ``torch.compile`` at its first call.
        dtype: Number type of a frozen network's weights and computation. A network that trains
            stays in float32 and follows ``trainer.precision``.

    Raises:
        ValueError: If ``dtype`` is unknown, or not float32 for a network that trains.
    """

    frozen: bool = False
    channels_last: bool = False
    gradient_checkpointing: bool = False
    compile: bool = False
    dtype: Precision = "float32"

    def __post_init__(self) -> None:
        if self.dtype not in get_args(Precision):
            raise ValueError(
                f"dtype is {self.dtype!r}; expected one of {', '.join(get_args(Precision))}"
            )
        if self.dtype != "float32" and not self.frozen:
            raise ValueError(
                f"dtype is {self.dtype} for a network that trains; set frozen, or leave dtype at "
                "float32 and set trainer.precision"
            )


def run_as(network: Any, flags: Flags) -> None:
    """Prepare a network of diffusers in place; its owner handles ``frozen``.

    Args:
        network: The network.
        flags: How it runs.
    """
    dtype = getattr(torch, flags.dtype)
    if network.dtype != dtype:
        nn.Module.to(network, dtype)  # diffusers' own method warns about absent modules
    if flags.channels_last:
        for parameter in network.parameters():  # not `to`, which refuses 3-D convolutions
            if parameter.ndim == 4:
                parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)
    if flags.gradient_checkpointing:
        if network._supports_gradient_checkpointing:
            network.enable_gradient_checkpointing()
        else:
            _compute_again(network)
    if flags.compile:
        network.compile()  # in place, so that names of tensors stay


def _compute_again(network: Any) -> None:
    """Add gradient checkpointing to U-Nets for which diffusers has none, such as for video."""
    for block in (*network.down_blocks, network.mid_block, *network.up_blocks):
        block.forward = partial(_checkpointed, block.forward)


def _checkpointed(forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    if torch.is_grad_enabled():
        return checkpoint(forward, *args, use_reentrant=False, **kwargs)
    return forward(*args, **kwargs)
