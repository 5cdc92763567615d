"""EDSR: Enhanced Deep Residual Networks for Single Image Super-Resolution.

Lim et al., CVPRW 2017; arXiv 1707.02921.

16 blocks of 64 channels are the paper's baseline, 32 blocks of 256 with ``res_scale`` 0.1 its large
model. Tensor names are those of the released EDSR-PyTorch files; BasicSR's are read, too.
Differs from the paper in: ``global_skip``, an option that is off by default.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from files.numbers import NonNegativeInt, PositiveInt
from files.weights import renamed_by
from lightning_modules.networks.layers import conv3x3, zeroed

MEAN = (0.4488, 0.4371, 0.4040)  # of DIV2K's training images, in RGB
FACTORS = (2, 3, 4, 8)
PEAK = 255.0  # released weights work on levels of 0..255
WIDE = 256  # channels from which residuals are scaled by 0.1, in the paper and in BasicSR
# From BasicSR's names; its last convolution of the body has no number.
RENAMED = (
    (re.compile(r"^conv_first\."), "head.0."),
    (re.compile(r"^body\.(\d+)\.conv1\."), r"body.\1.body.0."),
    (re.compile(r"^body\.(\d+)\.conv2\."), r"body.\1.body.2."),
    (re.compile(r"^upsample\."), "tail.0."),
    (re.compile(r"^conv_last\."), "tail.1."),
)


class MeanShift(nn.Module):
    """Subtract or add the mean colour; constant, but part of released files.

    Args:
        sign: -1 to subtract, 1 to add.
        peak: Value of white.
    """

    weight: Tensor
    bias: Tensor

    def __init__(self, sign: int, peak: float = PEAK) -> None:
        super().__init__()
        self.register_buffer("weight", torch.eye(3).view(3, 3, 1, 1))
        self.register_buffer("bias", sign * peak * torch.tensor(MEAN))

    def forward(self, x: Tensor) -> Tensor:
        """Shift x (B, 3, H, W)."""
        # A 1x1 convolution upstream. Its matrix is diagonal; this form is exact under bf16 autocast
        # and TF32, where a convolution loses half a level of 255.
        gain = self.weight[:, :, 0, 0].diagonal()
        return x * gain.view(1, 3, 1, 1) + self.bias.view(1, 3, 1, 1)


class ResidualBlock(nn.Module):
    """Convolution, ReLU, convolution, added to the input; no normalisation.

    Args:
        channels: Width.
        res_scale: Factor on the branch before it is added.
    """

    def __init__(self, channels: int, res_scale: float) -> None:
        super().__init__()
        self.res_scale = res_scale
        self.body = nn.Sequential(
            conv3x3(channels, channels),
            nn.ReLU(inplace=True),
            conv3x3(channels, channels),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Refine features x (B, C, H, W)."""
        return torch.add(x, self.body(x), alpha=self.res_scale)


class Trunk(nn.Module):
    """EDSR without its tail: from an image to features of the same height and width.

    LIIF's encoder is only this: it never shifts the mean, but its files hold the shifts' tensors.

    Args:
        blocks: Number of residual blocks.
        channels: Width of all layers.
        res_scale: Factor on each block's branch; 0.1 keeps wide networks (256) stable.
        peak: Value of white for the mean shifts.
    """

    def __init__(
        self, blocks: int = 16, channels: int = 64, res_scale: float = 1.0, peak: float = PEAK
    ) -> None:
        super().__init__()
        self.sub_mean = MeanShift(-1, peak)
        self.add_mean = MeanShift(1, peak)
        self.head = nn.Sequential(conv3x3(3, channels))
        self.body = nn.Sequential(
            *(ResidualBlock(channels, res_scale) for _ in range(blocks)),
            conv3x3(channels, channels),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return features (B, C, H, W) of x (B, 3, H, W), which is centred at 0."""
        head = self.head(x)
        return self.body(head) + head


class EDSR(Trunk):
    """Residual network without normalisation, upsampling at its end.

    Args:
        scale: Factor of enlargement: 2, 3, 4 or 8 (linked from data.init_args.scale).
        blocks: Number of residual blocks: 16 in the paper's baseline, 32 in its large model.
        channels: Width of all layers: 64 in the baseline, 256 in the large model.
        res_scale: Factor on each block's branch: 1 in the baseline, 0.1 in the large model.
        global_skip: Let the network learn the residual of bicubic enlargement, starting from
            exactly bicubic; for short trainings from scratch. False, as in the paper, for released
            weights.

    Raises:
        ValueError: If ``scale`` is not one of the supported factors.
    """

    def __init__(
        self,
        scale: float,
        blocks: NonNegativeInt = 16,
        channels: PositiveInt = 64,
        res_scale: float = 1.0,
        global_skip: bool = False,
    ) -> None:
        if scale not in FACTORS:
            raise ValueError(
                f"data.init_args.scale is {scale}, but EDSR enlarges by 2, 3, 4 or 8; "
                "LIIF, and EDSR within AnySize, enlarge by any factor"
            )
        super().__init__(blocks, channels, res_scale)
        self.scale = int(scale)
        self.global_skip = global_skip
        # Kept with the weights, whose shapes do not show it.
        self.trained_with = {"res_scale": res_scale, "global_skip": global_skip}
        last = conv3x3(channels, 3)
        self.tail = nn.Sequential(_upsampler(self.scale, channels), last)
        if global_skip:
            zeroed(last)  # so that training starts from exactly bicubic

    def forward(self, lr: Tensor) -> Tensor:
        """Enlarge.

        Args:
            lr: (B, 3, h, w) in [0, 1].

        Returns:
            (B, 3, scale * h, scale * w), about [0, 1]; not clamped.
        """
        return self.enlarged(self.encode(lr), lr)

    def encode(self, lr: Tensor) -> Tensor:
        """Return features (B, C, h, w) of lr (B, 3, h, w) in [0, 1]."""
        return super().forward(self.sub_mean(lr * PEAK))

    def enlarged(self, features: Tensor, lr: Tensor) -> Tensor:
        """Return the output of ``forward`` for lr, from its features.

        Args:
            features: (B, C, h, w), result of ``encode``.
            lr: (B, 3, h, w) in [0, 1].
        """
        y = self.tail(features)
        if self.global_skip:
            # antialias selects the a = -0.5 kernel of MATLAB and Pillow; without it, it is -0.75.
            y = y + functional.interpolate(
                self.sub_mean(lr * PEAK), scale_factor=self.scale, mode="bicubic", antialias=True
            )
        return self.add_mean(y) / PEAK

    def official(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the tensors of a file of EDSR-PyTorch or BasicSR by this network's names.

        Args:
            tensors: Flat state dict.
        """
        if "conv_after_body.weight" not in tensors:
            return dict(tensors)
        # BasicSR's files lack the mean shifts, which are the same constants in every EDSR.
        constants = {k: v for k, v in self.state_dict().items() if "_mean." in k}
        return constants | renamed(tensors)


def renamed(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors of a BasicSR file by EDSR-PyTorch's names; others unchanged.

    Args:
        tensors: Flat state dict.
    """
    blocks = sum(name.endswith(".conv1.weight") for name in tensors)
    # In EDSR-PyTorch this convolution is the last member of the body, after all blocks.
    last = (re.compile(r"^conv_after_body\."), f"body.{blocks}.")
    return renamed_by(tensors, [*RENAMED, last])


def arguments_of(tensors: Mapping[str, Tensor]) -> dict[str, Any] | None:
    """Return the arguments of the EDSR that tensors belong to; None if they are of another network.

    Args:
        tensors: Flat state dict, by the names of EDSR-PyTorch or BasicSR.
    """
    names = renamed(tensors)
    if not names.keys() >= {"head.0.weight", "body.0.body.0.weight", "tail.0.0.weight"}:
        return None
    channels = len(names["head.0.weight"])
    scale = 1
    for name, tensor in names.items():
        if re.fullmatch(r"tail\.0\.\d\.weight", name):  # gives factor^2 times the channels
            scale *= math.isqrt(tensor.shape[0] // channels)
    return {
        "scale": scale,
        "blocks": sum(name.endswith(".body.0.weight") for name in names),
        "channels": channels,
        "res_scale": 0.1 if channels >= WIDE else 1.0,  # which tensors do not show
    }


def _upsampler(scale: int, channels: int) -> nn.Sequential:
    """Create sub-pixel convolutions: one for x3, otherwise one per factor of two."""
    factors = [3] if scale == 3 else [2] * (scale.bit_length() - 1)
    layers = nn.Sequential()
    for factor in factors:
        layers.append(conv3x3(channels, channels * factor**2))
        layers.append(nn.PixelShuffle(factor))
    return layers
