"""IMDN: Lightweight Image Super-Resolution with Information Multi-distillation Network.

Hui et al., ACM MM 2019; arXiv 1909.11856.

After each of its first three convolutions, a block sets a quarter of the channels aside and refines
the rest; at its end it weights and mixes these quarters. Tensor names are those of the released
files.
Differs from the paper in: nothing.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from files.numbers import PositiveInt
from lightning_modules.networks.layers import conv3x3

SLOPE = 0.05  # of every leaky ReLU


class ContrastAttention(nn.Module):
    """Contrast-aware channel attention: a gate from each channel's mean plus deviation (Eq. 5).

    Args:
        channels: Width, a multiple of 16.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv_du = nn.Sequential(
            nn.Conv2d(channels, channels // 16, 1),
            nn.ReLU(inplace=True),
            nn.Conv2d(channels // 16, channels, 1),
            nn.Sigmoid(),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Weight the channels of x (B, C, H, W)."""
        variance, mean = torch.var_mean(x, dim=(2, 3), correction=0, keepdim=True)
        # The clamp changes no value: it makes the gradient of a constant channel 0 instead of NaN.
        deviation = variance.float().clamp_min(torch.finfo(torch.float32).tiny).sqrt()
        return x * self.conv_du(deviation.to(x.dtype) + mean)


class Block(nn.Module):
    """Information multi-distillation block (Fig. 3).

    Args:
        channels: Width, a multiple of 16.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.distilled_width = channels // 4
        rest = channels - self.distilled_width  # which the next convolution refines
        self.c1 = conv3x3(channels, channels)
        self.c2 = conv3x3(rest, channels)
        self.c3 = conv3x3(rest, channels)
        self.c4 = conv3x3(rest, self.distilled_width)
        self.cca = ContrastAttention(channels)
        self.c5 = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Refine features x (B, C, H, W)."""
        rest = x
        distilled = []
        for conv in (self.c1, self.c2, self.c3):
            y = functional.leaky_relu(conv(rest), SLOPE, inplace=True)
            distilled.append(y[:, : self.distilled_width])
            rest = y[:, self.distilled_width :]
        distilled.append(self.c4(rest))
        refined: Tensor = self.c5(self.cca(torch.cat(distilled, dim=1)))
        return refined + x


class IMDN(nn.Module):
    """Light network of about 0.7 million parameters, upsampling at its end.

    Args:
        scale: Factor of enlargement, a whole number from 2 to 8 (linked from
            data.init_args.scale); weights are published for 2, 3 and 4.
        channels: Width of all layers, a multiple of 16.
        blocks: Number of distillation blocks.

    Raises:
        ValueError: If ``scale`` is not a whole number from 2 to 8.
    """

    def __init__(self, scale: float, channels: PositiveInt = 64, blocks: PositiveInt = 6) -> None:
        super().__init__()
        if scale not in range(2, 9):
            raise ValueError(
                f"data.init_args.scale is {scale}, but IMDN enlarges by a whole number from 2 to "
                "8; LIIF enlarges by any factor"
            )
        self.scale = int(scale)
        # Layers are named as in the released files.
        self.fea_conv = conv3x3(3, channels)
        self.names = [f"IMDB{number}" for number in range(1, blocks + 1)]
        for name in self.names:
            self.add_module(name, Block(channels))
        self.c = nn.Sequential(
            nn.Conv2d(channels * blocks, channels, 1), nn.LeakyReLU(SLOPE, inplace=True)
        )
        self.LR_conv = conv3x3(channels, channels)
        self.upsampler = nn.Sequential(
            conv3x3(channels, 3 * self.scale**2), nn.PixelShuffle(self.scale)
        )

    def forward(self, lr: Tensor) -> Tensor:
        """Enlarge.

        Args:
            lr: (B, 3, h, w) in [0, 1].

        Returns:
            (B, 3, scale * h, scale * w), about [0, 1]; not clamped.
        """
        shallow = self.fea_conv(lr)
        x = shallow
        outputs = []
        for name in self.names:
            x = self.get_submodule(name)(x)
            outputs.append(x)
        return self.upsampler(self.LR_conv(self.c(torch.cat(outputs, dim=1))) + shallow)


def arguments_of(tensors: Mapping[str, Tensor]) -> dict[str, Any] | None:
    """Return the arguments of the IMDN that tensors belong to; None if they are of another network.

    Args:
        tensors: Flat state dict.
    """
    if not tensors.keys() >= {"fea_conv.weight", "IMDB1.c1.weight", "upsampler.0.weight"}:
        return None
    return {
        "scale": math.isqrt(len(tensors["upsampler.0.weight"]) // 3),
        "channels": len(tensors["fea_conv.weight"]),
        "blocks": sum(name.endswith(".c1.weight") for name in tensors),
    }
