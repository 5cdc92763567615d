"""NSARM's transformation network: from a small image's latent to the first scales of a large one.

NSARM (arXiv 2510.00820): 385,103,600 parameters in 950 tensors, for latents of 32x32 positions, 256
pixels. A trunk, and for each scale a branch of its own: pooled to the scale's grid, a transformer
over its positions.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, cast

from torch import Tensor, nn

from lightning_modules.networks.scales import Size


class Branch(NamedTuple):
    """What makes one scale.

    Args:
        width: Channels, m.
        layers: Of its transformer.
        heads: Of its transformer's attention.
    """

    width: int
    layers: int
    heads: int


RELEASED = (
    *(Branch(64, 4, 4), Branch(128, 6, 4), Branch(256, 8, 8), Branch(384, 10, 8)),
    *(Branch(512, 12, 8), Branch(768, 14, 12), Branch(1024, 16, 16)),
)


class Transformation(nn.Module):
    """Residuals of the first scales, not yet quantised.

    There is no encoding of positions: convolutions' zeros at the border and norms over whole maps,
    with weights for each position, are all that tells them apart. So one size is all it takes.

    Args:
        bits: Channels of the latent, d.
        size: (h, w) of the latent that it reads.
        grids: (h, w) of the scales that it makes, in positions of the latent.
        branches: A width, layers and heads for each of them.
        trunk: Channels of the trunk's first two layers.
        dropout: Within the transformers, in training.

    Raises:
        ValueError: There is not one branch for each grid, or a width is odd or no multiple of its
            heads.
    """

    source: str = ""  # where its weights came from, with a hash, where it is frozen

    def __init__(
        self,
        bits: int = 14,
        size: Size = (32, 32),
        grids: Sequence[Size] = ((2, 2), (4, 4), (8, 8), (12, 12), (16, 16), (24, 24), (32, 32)),
        branches: Sequence[Branch] = RELEASED,
        trunk: tuple[int, int] = (64, 128),
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        if len(grids) != len(branches):
            raise ValueError(
                f"there are {len(grids)} grids and {len(branches)} branches; expected one each"
            )
        h, w = size
        self.bits, self.size = bits, (h, w)
        self.grids = [(rows, columns) for rows, columns in grids]
        self.trunk = nn.Sequential(
            *_convolution(bits, trunk[0], size),
            *_convolution(trunk[0], trunk[1], size),
            *_convolution(trunk[1], bits, size),
        )
        self.branches = nn.ModuleList(
            _Branch(bits, size, grid, Branch(*branch), dropout)
            for grid, branch in zip(self.grids, branches, strict=True)
        )

    def forward(self, z: Tensor) -> list[Tensor]:
        """Residuals of each scale.

        Args:
            z: (B, d, h, w), the small image's latent, not quantised.

        Returns:
            (B, d, h_k, w_k) of each scale. The released network's rows are read as they lie in
            memory, channel after channel, and so are the targets that it was trained with: what is
            row p, column c of its output is not position p, channel c of the latent.

        Raises:
            ValueError: The latent has another size or number of channels.
        """
        if z.shape[1:] != (self.bits, *self.size):
            raise ValueError(
                f"the latent is {' x '.join(str(n) for n in z.shape[1:])}; expected {self.bits} x "
                f"{self.size[0]} x {self.size[1]}, the one size of this network: train one for "
                "this size, by model.init_args.mapper.init_args.size"
            )
        features = self.trunk(z.to(next(self.parameters()).dtype))
        return [
            cast(Tensor, branch(features)).reshape(len(z), self.bits, *grid)
            for branch, grid in zip(self.branches, self.grids, strict=True)
        ]


class _Branch(nn.Module):
    def __init__(self, bits: int, size: Size, grid: Size, sizes: Branch, dropout: float) -> None:
        super().__init__()
        width, layers, heads = sizes
        if width % 2 or width % heads:
            raise ValueError(
                f"a branch is {width} wide with {heads} heads; expected an even multiple of them"
            )
        self.local = nn.Sequential(
            *_convolution(bits, width // 2, size), *_convolution(width // 2, width, size)
        )
        self.pool = nn.AdaptiveAvgPool2d(grid)
        layer = nn.TransformerEncoderLayer(width, heads, 4 * width, dropout, batch_first=True)
        # Nested tensors are for padded batches, which do not occur here.
        self.whole = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)
        self.out = nn.Sequential(
            *(nn.Linear(width, width // 2), nn.LayerNorm(width // 2), nn.GELU()),
            nn.Linear(width // 2, bits),
        )

    def forward(self, features: Tensor) -> Tensor:
        rows = self.pool(self.local(features)).flatten(2).transpose(1, 2)
        found: Tensor = self.out(self.whole(rows))
        return found


def _convolution(inputs: int, outputs: int, size: Size) -> tuple[nn.Module, ...]:
    return (
        nn.Conv2d(inputs, outputs, 3, padding=1),
        nn.LayerNorm((outputs, *size)),
        nn.GELU(),
    )


PREFIX = "map_transformer."
_PARTS = {
    "feature_extractor": "trunk",
    "feature_transforms": "local",
    "transformers": "whole",
    "output_projs": "out",
}


def from_official(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Tensors of a released file by the names here.

    Args:
        tensors: As in the file, with or without ``map_transformer.``; what belongs to the
            transformer is left out.

    Returns:
        None of them where the file has no such network, as a base alone has not.
    """
    within = any(name.startswith(PREFIX) for name in tensors)
    if not within and not any(name.partition(".")[0] in _PARTS for name in tensors):
        return {}
    found = {}
    for name, tensor in tensors.items():
        if within and not name.startswith(PREFIX):
            continue
        first, _, rest = name.removeprefix(PREFIX).partition(".")
        part = _PARTS.get(first, first)
        number, _, inner = rest.partition(".")
        ours = f"{part}.{rest}" if part == "trunk" else f"branches.{number}.{part}.{inner}"
        found[ours] = tensor
    return found
