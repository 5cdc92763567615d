"""The grids of a next-scale autoregressive model: from one token to the whole image.

Infinity (Han et al., arXiv 2412.04431) has thirteen grids for each aspect ratio; a pixel budget
uses the first ones. A token is 16 pixels wide. NSARM (arXiv 2510.00820) uses the square grids.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Literal

from lightning_modules.noise import Size

Budget = Literal["0.06M", "0.25M", "0.60M", "1M"]

_COUNT: dict[Budget, int] = {"0.06M": 7, "0.25M": 10, "0.60M": 12, "1M": 13}
_GRIDS = {  # by height over width; transposed for wider images
    1.0: "1x1 2x2 4x4 6x6 8x8 12x12 16x16 20x20 24x24 32x32 40x40 48x48 64x64",
    1.25: "1x1 2x2 3x3 5x4 10x8 15x12 20x16 25x20 30x24 35x28 45x36 55x44 70x56",
    4 / 3: "1x1 2x2 4x3 8x6 12x9 16x12 20x15 24x18 28x21 36x27 48x36 60x45 72x54",
    1.5: "1x1 2x2 3x2 6x4 9x6 15x10 21x14 27x18 33x22 39x26 48x32 63x42 78x52",
    1.75: "1x1 2x2 3x3 7x4 11x6 14x8 21x12 28x16 35x20 42x24 56x32 70x40 84x48",
    2.0: "1x1 2x2 4x2 6x3 10x5 16x8 22x11 30x15 38x19 46x23 60x30 74x37 90x45",
    2.5: "1x1 2x2 5x2 10x4 15x6 20x8 25x10 30x12 40x16 50x20 65x26 80x32 100x40",
    3.0: "1x1 2x2 6x2 9x3 15x5 21x7 27x9 36x12 45x15 54x18 72x24 90x30 111x37",
}


@dataclass(frozen=True)
class Scales:
    """The scales of one image, coarse to fine.

    Args:
        grids: (h, w) of each scale in tokens.
        patch: Side of a token in positions of the latent: 1, or 2 if a token has four positions.
        full: Grid of the rotary embedding's positions; the last one by default. The released
            weights use that of 1M pixels at any budget.

    Raises:
        ValueError: If there is no grid, or one is smaller than the previous.
    """

    grids: Sequence[Size]
    patch: int = 1
    full: Size | None = None
    spans: tuple[slice, ...] = field(init=False, repr=False)
    """Positions of the tokens of each scale in the sequence."""

    def __post_init__(self) -> None:
        grids = tuple((int(h), int(w)) for h, w in self.grids)
        falls = any(b[0] < a[0] or b[1] < a[1] for a, b in pairwise([(1, 1), *grids]))
        if not grids or falls:
            raise ValueError(f"grids are {list(grids)}; expected sides that never become smaller")
        ends = [0]
        for h, w in grids:
            ends.append(ends[-1] + h * w)
        spans = tuple(slice(a, b) for a, b in pairwise(ends))
        object.__setattr__(self, "grids", grids)
        object.__setattr__(self, "full", tuple(self.full or grids[-1]))
        object.__setattr__(self, "spans", spans)

    def __len__(self) -> int:
        """Return the number of scales."""
        return len(self.grids)

    @property
    def tokens(self) -> int:
        """Number of tokens of all scales."""
        return self.spans[-1].stop

    @property
    def latents(self) -> list[Size]:
        """(h, w) of each scale in positions of the latent."""
        return [(h * self.patch, w * self.patch) for h, w in self.grids]


def published(ratio: float = 1.0, budget: Budget = "1M", patch: int = 1) -> Scales:
    """Return the scales that the released weights were trained with.

    Args:
        ratio: Height over width; the nearest of the fifteen is used.
        budget: Pixels of the image.
        patch: Side of a token in positions of the latent: 2 for the autoencoder of 14 bits.
    """
    nearest = min(RATIOS, key=lambda known: abs(known - ratio))
    flat = nearest < 1
    table = _GRIDS[next(r for r in _GRIDS if abs(r - (1 / nearest if flat else nearest)) < 1e-9)]
    grids = [_size(text, flat) for text in table.split()]
    return Scales(grids[: _COUNT[budget]], patch, grids[-1])


def proportional(sizes: Sequence[Size], size: Size) -> list[Size]:
    """Return the sizes of scales for a latent of another size, in proportion to the last one.

    Args:
        sizes: (h, w) of each scale; the last one is the latent's.
        size: (h, w) of the other latent.
    """
    full = sizes[-1]
    return [
        (max(round(h * size[0] / full[0]), 1), max(round(w * size[1] / full[1]), 1))
        for h, w in sizes
    ]


RATIOS = tuple(sorted({*_GRIDS, *(1 / ratio for ratio in _GRIDS)}))
"""Height over width of the published grids."""


def _size(text: str, transposed: bool) -> Size:
    h, w = (int(side) for side in text.split("x"))
    return (w, h) if transposed else (h, w)
