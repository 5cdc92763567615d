"""TAEF2, the tiny autoencoder for FLUX.2's latents: 32 channels at an eighth of the side.

Bohan (madebyollin), "Tiny AutoEncoder for Stable Diffusion", git madebyollin/taesd. Tensor names
are those of the released files, one per half. Blocks in the middle have a branch that pools over
the whole image (GroupNorm), so processing in tiles is not exact.
"""

from __future__ import annotations

from torch import Tensor, nn

WIDTH, TAEF2_CHANNELS, TAEF2_FACTOR = 64, 32, 8
_REACH = 3.0  # the decoder squashes its input to [-3, 3]


class Block(nn.Module):
    """Three convolutions with a skip connection, optionally after a pooled branch.

    Args:
        pooled: Whether there is a pooled branch.
    """

    def __init__(self, pooled: bool = False) -> None:
        super().__init__()
        self.conv = nn.Sequential(
            _conv(WIDTH, WIDTH), nn.ReLU(), _conv(WIDTH, WIDTH), nn.ReLU(), _conv(WIDTH, WIDTH)
        )
        self.pool = None
        if pooled:
            self.pool = nn.Sequential(
                nn.Conv2d(WIDTH, 4 * WIDTH, 1, bias=False),
                nn.GroupNorm(4, 4 * WIDTH),
                nn.ReLU(),
                nn.Conv2d(4 * WIDTH, WIDTH, 1, bias=False),
            )

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, 64, H, W) to the same shape."""
        if self.pool is not None:
            x = x + self.pool(x)
        return (self.conv(x) + x).relu()


class Bend(nn.Module):
    """3 tanh(x / 3)."""

    def forward(self, x: Tensor) -> Tensor:
        """Squash values to [-3, 3]."""
        return (x / _REACH).tanh() * _REACH


def taef2_encoder() -> nn.Sequential:
    """Create the encoder: (B, 3, H, W) in [0, 1], sides divisible by 8, to (B, 32, H / 8, ...)."""
    layers: list[nn.Module] = [_conv(3, WIDTH), Block()]
    for level in range(3):
        layers.append(nn.Conv2d(WIDTH, WIDTH, 3, stride=2, padding=1, bias=False))
        layers += [Block(pooled=level == 2) for _ in range(3)]
    return nn.Sequential(*layers, _conv(WIDTH, TAEF2_CHANNELS))


def taef2_decoder() -> nn.Sequential:
    """Create the decoder: (B, 32, h, w) to (B, 3, 8 h, 8 w), about [0, 1]."""
    layers: list[nn.Module] = [Bend(), _conv(TAEF2_CHANNELS, WIDTH), nn.ReLU()]
    for level in range(3):
        layers += [Block(pooled=level == 0) for _ in range(3)]
        layers += [nn.Upsample(scale_factor=2), nn.Conv2d(WIDTH, WIDTH, 3, padding=1, bias=False)]
    return nn.Sequential(*layers, Block(), _conv(WIDTH, 3))


def _conv(inputs: int, outputs: int) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, padding=1)
