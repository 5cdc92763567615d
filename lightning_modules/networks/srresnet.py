"""MSRResNet: the residual network with which BasicSR's tutorials begin.

SRResNet (Ledig et al., CVPR 2017; arXiv 1609.04802) as changed by the authors of ESRGAN (Wang et
al., ECCVW 2018; arXiv 1809.00219): without normalisation, added to bilinear enlargement. Tensor
names are those of BasicSR's files, but in the residual blocks, which are EDSR's.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor, nn
from torch.nn import functional

from files.numbers import NonNegativeInt, PositiveInt
from files.weights import renamed_by
from lightning_modules.networks.edsr import ResidualBlock
from lightning_modules.networks.layers import conv3x3

RENAMED = (
    (re.compile(r"^body\.(\d+)\.conv1\."), r"body.\1.body.0."),
    (re.compile(r"^body\.(\d+)\.conv2\."), r"body.\1.body.2."),
)
SLOPE = 0.1  # of all activations but those of the blocks


class MSRResNet(nn.Module):
    """Residual blocks without normalisation, added to bilinear enlargement.

    Args:
        scale: Factor of enlargement: 2, 3 or 4 (linked from data.init_args.scale).
        blocks: Number of residual blocks.
        channels: Width of all layers.

    Raises:
        ValueError: If ``scale`` is another factor.
    """

    def __init__(
        self, scale: float, blocks: NonNegativeInt = 16, channels: PositiveInt = 64
    ) -> None:
        super().__init__()
        if scale not in (2, 3, 4):
            raise ValueError(
                f"data.init_args.scale is {scale:g}, but MSRResNet enlarges by 2, 3 or 4; within "
                "AnySize it enlarges by any factor"
            )
        self.scale = int(scale)
        self.shuffle = 3 if scale == 3 else 2  # enlargement of each step; x4 has two
        wide = channels * self.shuffle**2
        self.conv_first = conv3x3(3, channels)
        self.body = nn.Sequential(*(ResidualBlock(channels, 1.0) for _ in range(blocks)))
        self.upconv1 = conv3x3(channels, wide)
        self.upconv2 = conv3x3(channels, wide) if scale == 4 else None
        self.conv_hr = conv3x3(channels, channels)
        self.conv_last = conv3x3(channels, 3)
        for name, parameter in self.named_parameters():
            if name.endswith(".bias"):
                nn.init.zeros_(parameter)
            else:
                nn.init.kaiming_normal_(parameter)
                parameter.data *= 0.1  # small residuals at first, as in BasicSR

    def forward(self, lr: Tensor) -> Tensor:
        """Enlarge.

        Args:
            lr: (B, 3, h, w) in [0, 1].

        Returns:
            (B, 3, scale * h, scale * w), about [0, 1]; not clamped.
        """
        x = self.body(functional.leaky_relu(self.conv_first(lr), SLOPE))
        x = self._enlarged(self.upconv1, x)
        if self.upconv2 is not None:
            x = self._enlarged(self.upconv2, x)
        x = self.conv_last(functional.leaky_relu(self.conv_hr(x), SLOPE))
        return x + functional.interpolate(lr, scale_factor=self.scale, mode="bilinear")

    def _enlarged(self, convolution: nn.Conv2d, x: Tensor) -> Tensor:
        """Enlarge features by one step."""
        return functional.leaky_relu(functional.pixel_shuffle(convolution(x), self.shuffle), SLOPE)

    def official(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the tensors of a file of BasicSR by this network's names.

        Args:
            tensors: Flat state dict.
        """
        return renamed_by(tensors, RENAMED)
