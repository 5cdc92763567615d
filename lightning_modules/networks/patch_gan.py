"""PatchGAN: a discriminator with one logit per overlapping patch of an image.

Isola et al., CVPR 2017 (arXiv 1611.07004), with 70x70 pixels by default, as for VQGAN and its
successors. Group norms replace batch norms, so images of a batch are independent.
"""

from __future__ import annotations

from itertools import pairwise

from torch import Tensor, nn


class PatchGAN(nn.Module):
    """Convolutions of 4x4, all except the last two with a stride of two.

    Args:
        width: Channels of the first layer; they double with each layer, up to eight times.
        layers: Layers with a stride of two; three have a receptive field of 70x70 pixels.

    Raises:
        ValueError: If the width is no multiple of 8, the groups of its norms, or there is no layer.
    """

    def __init__(self, width: int = 64, layers: int = 3) -> None:
        super().__init__()
        if width < 8 or width % 8 or layers < 1:
            raise ValueError(
                f"width is {width} and layers {layers}; expected a multiple of 8, and 1 or more"
            )
        widths = [3, *(width * min(2**n, 8) for n in range(layers + 1))]
        parts: list[nn.Module] = []
        for n, (inputs, outputs) in enumerate(pairwise(widths)):
            stride = 2 if n < layers else 1
            parts.append(nn.Conv2d(inputs, outputs, 4, stride, 1, bias=n == 0))
            if n:
                parts.append(nn.GroupNorm(8, outputs))
            parts.append(nn.LeakyReLU(0.2))
        self.network = nn.Sequential(*parts, nn.Conv2d(widths[-1], 1, 4, 1, 1))
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.normal_(module.weight, 0.0, 0.02)

    def forward(self, images: Tensor) -> list[Tensor]:
        """Return the logits.

        Args:
            images: (B, 3, H, W) in [0, 1].

        Returns:
            One map, (B, 1, h, w).
        """
        logits: Tensor = self.network(2 * images - 1)
        return [logits]
