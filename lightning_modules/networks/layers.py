"""Layers that several networks share."""

from __future__ import annotations

import math
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

Layer = TypeVar("Layer", bound=nn.Module)


def conv3x3(inputs: int, outputs: int, stride: int = 1) -> nn.Conv2d:
    """Create a 3x3 convolution that keeps the sides, or halves them with a stride of 2."""
    return nn.Conv2d(inputs, outputs, 3, stride, padding=1)


def zeroed(layer: Layer) -> Layer:
    """Set a layer's weights to zero, so that its branch starts without effect."""
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
    return layer


def sinusoids(t: Tensor, width: int) -> Tensor:
    """Return (B, width) float32: cosines, then sines, of t at frequencies from 1 to 1 / 10,000.

    Args:
        t: (B,).
        width: An even number.
    """
    half = width // 2
    index = torch.arange(half, device=t.device, dtype=torch.float32)
    frequencies = torch.exp(-math.log(10_000) / half * index)
    angles = t.float()[:, None] * frequencies
    return torch.cat([angles.cos(), angles.sin()], dim=1)


def embedded_time(network: Any, t: Tensor | float, x: Tensor) -> Tensor:
    """Return the embedded timesteps, (B, E), of a network built of diffusers' blocks.

    Args:
        network: Has diffusers' ``time_proj`` and ``time_embedding``.
        t: Timesteps: (B,), or one for all.
        x: Input of the network, (B, ...); the embedding gets its type.
    """
    if not isinstance(t, Tensor):
        t = torch.full((), t, device=x.device)
    waves = network.time_proj(t.expand(len(x))).to(x.dtype)
    return network.time_embedding(waves)


def check_sides(x: Tensor, divisor: int, owner: nn.Module) -> None:
    """Check that the sides of a training crop, or of its latent, can be halved.

    Args:
        x: (B, C, h, w), the input of ``owner``.
        divisor: What both sides have to be divisible by.
        owner: The network, for the message.

    Raises:
        ValueError: If a side is not divisible.
    """
    h, w = x.shape[-2:]
    if h % divisor or w % divisor:
        raise ValueError(
            f"the input is {h}x{w}; {type(owner).__name__} needs sides divisible by {divisor}: "
            "choose data.init_args.crop_size, or the size of an image, accordingly"
        )
