"""SRVGGNetCompact: Real-ESRGAN's small network, known as Compact.

Released with Real-ESRGAN (Wang et al., ICCVW 2021; arXiv 2107.10833), not described in the paper.
Plain convolutions on LR and a shuffle of pixels at the end; the network learns what the nearest
pixel lacks. Tensor names are those of the released files.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional

from files.numbers import PositiveInt


class SRVGGNetCompact(nn.Module):
    """Light network of plain convolutions, upsampling at its end.

    Args:
        scale: Factor of enlargement, a whole number from 1 (linked from data.init_args.scale).
        channels: Width of all layers.
        convolutions: Convolutions between the first and the last one: 16 in the released network
            for videos of anime, 32 in the general one.

    Raises:
        ValueError: If ``scale`` is no whole number from 1.
    """

    def __init__(
        self, scale: float, channels: PositiveInt = 64, convolutions: PositiveInt = 16
    ) -> None:
        super().__init__()
        if scale != int(scale) or scale < 1:
            raise ValueError(
                f"data.init_args.scale is {scale:g}, but SRVGGNetCompact enlarges by a whole "
                "number; within AnySize it enlarges by any factor"
            )
        self.scale = int(scale)
        layers: list[nn.Module] = []
        for inputs in (3, *[channels] * convolutions):
            layers += [nn.Conv2d(inputs, channels, 3, padding=1), nn.PReLU(channels)]
        self.body = nn.Sequential(*layers, nn.Conv2d(channels, 3 * self.scale**2, 3, padding=1))

    def forward(self, lr: Tensor) -> Tensor:
        """Enlarge.

        Args:
            lr: (B, 3, h, w) in [0, 1].

        Returns:
            (B, 3, scale * h, scale * w), about [0, 1]; not clamped.
        """
        nearest = functional.interpolate(lr, scale_factor=self.scale, mode="nearest")
        return functional.pixel_shuffle(self.body(lr), self.scale) + nearest

    def community(self) -> dict[str, Tensor]:
        """Return the tensors by the names of the released files, which are the network's own."""
        return dict(self.state_dict())
