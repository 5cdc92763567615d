"""The networks that map the latent of LR to the first scales of HR's latent.

``Transformation`` is NSARM's (arXiv 2510.00820): 385,103,600 parameters in 950 tensors, for latents
of 32x32 positions, 256 pixels. It has a trunk, and a branch for each scale: pooling to the scale's
grid, then a transformer over its positions.

``LatentEstimate`` is ours: it estimates HR's latent as a whole and quantises the estimate in
sequence, so each scale corrects the codes of the previous ones.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from itertools import islice
from typing import NamedTuple, cast

from torch import Tensor, nn

from files.numbers import PositiveInt, UnitInterval
from lightning_modules.networks.bsq import enlarged, quantized, scales_of
from lightning_modules.networks.layers import conv3x3
from lightning_modules.noise import Size


class Branch(NamedTuple):
    """Sizes of the branch of one scale.

    Args:
        width: Channels, m.
        layers: Layers of its transformer.
        heads: Attention heads of its transformer.
    """

    width: int
    layers: int
    heads: int


RELEASED = (
    Branch(64, 4, 4),
    Branch(128, 6, 4),
    Branch(256, 8, 8),
    Branch(384, 10, 8),
    Branch(512, 12, 8),
    Branch(768, 14, 12),
    Branch(1024, 16, 16),
)
TRUNK = (64, 128)  # channels of the trunk's first two layers
PREFIX = "map_transformer."
# Released names of the parts, and ours.
_PARTS = {
    "feature_extractor": "trunk",
    "feature_transforms": "local",
    "transformers": "whole",
    "output_projs": "out",
}


class Mapper(nn.Module, ABC):
    """Base of the networks that predict the first scales.

    Args:
        bits: Channels of the latents, d.
        size: (h, w) of the latent that it reads.
        grids: (h, w) of the scales that it predicts, in positions of the latent.
        full: (H, W) of HR's latent, if the network depends on it.
    """

    source: str = ""  # if frozen: the source of its weights, with a hash

    def __init__(
        self, bits: int, size: Size, grids: Sequence[Size], full: Size | None = None
    ) -> None:
        super().__init__()
        self.bits = bits
        self.size = (size[0], size[1])
        self.grids = [(h, w) for h, w in grids]
        self.full = None if full is None else (full[0], full[1])

    @abstractmethod
    def forward(self, z: Tensor) -> list[Tensor]:
        """Return o_k, (B, d, h_k, w_k) of each scale, not quantised.

        Args:
            z: (B, d, h, w), the latent of LR, not quantised.
        """

    def official(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """Map the tensors of a released file, as ``from_official``."""
        return from_official(tensors)

    def targets(self, f: Tensor, sizes: Sequence[Size], outputs: Sequence[Tensor]) -> list[Tensor]:
        """Return r_k, the targets of o_k in stage 1: residuals of HR after HR's own codes.

        Args:
            f: (B, d, H, W), the latent of HR, not quantised.
            sizes: (h, w) of all scales of ``f``.
            outputs: o_k, as ``forward`` returned them; unused here.

        Returns:
            (B, d, h_k, w_k) of each predicted scale.
        """
        return [scale.residual for scale in islice(scales_of(f, sizes), len(outputs))]


class Transformation(Mapper):
    """NSARM's network: the residuals of the first scales, from independent branches.

    It has no positional encoding. Only zero padding at the border and norms over whole maps, with
    weights for each position, tell positions apart. It therefore takes a single size. As released,
    a branch's rows (positions, channels) are read as they lie in memory, as if they were (channels,
    positions): row p is not position p.

    Args:
        bits: Channels of the latent, d.
        size: (h, w) of the latent that it reads.
        grids: (h, w) of the scales that it predicts, in positions of the latent.
        branches: Width, layers and heads for each of them.
        dropout: Dropout of the transformers, in training.
    """

    def __init__(
        self,
        bits: int = 14,
        size: Size = (32, 32),
        grids: Sequence[Size] = ((2, 2), (4, 4), (8, 8), (12, 12), (16, 16), (24, 24), (32, 32)),
        branches: Sequence[Branch] = RELEASED,
        dropout: UnitInterval = 0.1,
    ) -> None:
        super().__init__(bits, size, grids)
        # Kept with the weights, whose shapes do not show it.
        self.trained_with = {"heads": [heads for _, _, heads in branches]}
        self.trunk = nn.Sequential(
            *_convolution(bits, TRUNK[0], size),
            *_convolution(TRUNK[0], TRUNK[1], size),
            *_convolution(TRUNK[1], bits, size),
        )
        self.branches = nn.ModuleList()
        for grid, branch in zip(self.grids, branches, strict=True):
            self.branches.append(_Branch(bits, size, grid, Branch(*branch), dropout))

    def forward(self, z: Tensor) -> list[Tensor]:
        """Return o_k, (B, d, h_k, w_k) of each scale, not quantised; see ``Mapper``."""
        features = self.trunk(z.to(next(self.parameters()).dtype))
        outputs = []
        for branch, grid in zip(self.branches, self.grids, strict=True):
            rows: Tensor = branch(features)
            # As released: read as it lies in memory, although rows are positions, not channels.
            outputs.append(rows.reshape(len(z), self.bits, *grid))
        return outputs


class LatentEstimate(Mapper):
    """One estimate of HR's latent, quantised in sequence; not of the paper.

    Convolutions estimate f. Then o_k is the part of the estimate that its own codes have left at
    scale k, and its target is what the same codes have left of f. So a scale corrects the wrong
    bits of previous ones, which independent branches cannot.

    Args:
        bits: Channels of the latents, d.
        size: (h, w) of the latent that it reads.
        grids: (h, w) of the scales that it predicts, in positions of the latent.
        full: (H, W) of HR's latent.
        width: Channels of the hidden layers.
        blocks: Number of residual blocks, of two convolutions each.
    """

    def __init__(
        self,
        bits: int,
        size: Size,
        grids: Sequence[Size],
        full: Size,
        width: PositiveInt = 128,
        blocks: PositiveInt = 4,
    ) -> None:
        super().__init__(bits, size, grids, full)
        self.inside = conv3x3(bits, width)
        self.blocks = nn.ModuleList()
        for _ in range(blocks):
            block = nn.Sequential(
                nn.GELU(), conv3x3(width, width), nn.GELU(), conv3x3(width, width)
            )
            self.blocks.append(block)
        self.out = conv3x3(width, bits)

    def estimate(self, z: Tensor) -> Tensor:
        """Return the estimate of HR's latent, (B, d, H, W).

        Args:
            z: (B, d, h, w), the latent of LR, not quantised.
        """
        # The enlarged latent of LR is the first guess; the network adds what it lacks.
        z = enlarged(z.to(self.out.weight.dtype), cast(Size, self.full))
        x: Tensor = self.inside(z)
        for block in self.blocks:
            x = x + block(x)
        return z + cast(Tensor, self.out(x))

    def forward(self, z: Tensor) -> list[Tensor]:
        """Return o_k, (B, d, h_k, w_k) of each scale, not quantised; see ``Mapper``."""
        scales = scales_of(self.estimate(z), [*self.grids, cast(Size, self.full)])
        return [scale.residual for scale in islice(scales, len(self.grids))]

    def targets(self, f: Tensor, sizes: Sequence[Size], outputs: Sequence[Tensor]) -> list[Tensor]:
        """Return r_k, what the codes of ``outputs`` leave of HR's latent; see ``Mapper``."""
        scales = scales_of(f, sizes, lambda number, _: quantized(outputs[number]))
        return [scale.residual for scale in islice(scales, len(outputs))]


class _Branch(nn.Module):
    """The layers of one scale: convolutions, pooling to its grid, and a transformer."""

    def __init__(self, bits: int, size: Size, grid: Size, branch: Branch, dropout: float) -> None:
        super().__init__()
        width, layers, heads = branch
        self.local = nn.Sequential(
            *_convolution(bits, width // 2, size), *_convolution(width // 2, width, size)
        )
        self.pool = nn.AdaptiveAvgPool2d(grid)
        layer = nn.TransformerEncoderLayer(width, heads, 4 * width, dropout, batch_first=True)
        # Nested tensors are for padded batches, which do not occur here.
        self.whole = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)
        self.out = nn.Sequential(
            nn.Linear(width, width // 2),
            nn.LayerNorm(width // 2),
            nn.GELU(),
            nn.Linear(width // 2, bits),
        )

    def forward(self, features: Tensor) -> Tensor:
        """Map the trunk's features (B, d, h, w) to rows (B, positions of the grid, d)."""
        rows = self.pool(self.local(features)).flatten(2).transpose(1, 2)
        return self.out(self.whole(rows))


def _convolution(inputs: int, outputs: int, size: Size) -> tuple[nn.Module, ...]:
    """Create a convolution, a norm over the whole map, and a GELU."""
    return conv3x3(inputs, outputs), nn.LayerNorm((outputs, *size)), nn.GELU()


def from_official(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Rename the tensors of a released file to the names here.

    Args:
        tensors: Tensors of the file, with or without ``map_transformer.``. Those of the
            transformer are left out.

    Returns:
        Tensors by the names here; none if the file has no such network, as a base has not.
    """
    ours = {name.removeprefix(PREFIX): name for name in tensors if name.startswith(PREFIX)}
    if not ours and any(name.partition(".")[0] in _PARTS for name in tensors):
        # All of them, so that loading reports those that belong to another network.
        ours = {name: name for name in tensors}
    state = {}
    for name, released in ours.items():
        first, _, rest = name.partition(".")
        part = _PARTS.get(first, first)
        number, _, inner = rest.partition(".")
        if part != "trunk":  # files sort by part, then by branch; here it is the reverse
            rest = f"{number}.{part}.{inner}"
            part = "branches"
        state[f"{part}.{rest}"] = tensors[released]
    return state
