"""LR images of any size, made large enough for a network by mirroring, and cut back exactly."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Padded:
    """An image with mirrored borders.

    Args:
        lr: (B, C, h', w').
        top: Rows that were added above.
        left: Columns that were added on the left.
    """

    lr: Tensor
    top: int
    left: int

    def crop(self, image: Tensor, size: tuple[int, int]) -> Tensor:
        """What belongs to the image without its borders.

        Exact where the added rows and columns are whole numbers of output pixels, as they are at
        any whole factor, and where nothing was added above and on the left.

        Args:
            image: (B, C, H', W'), made of ``lr`` at any factor.
            size: (H, W) of what is wanted.

        Returns:
            (B, C, H, W), a view.
        """
        (H, W), (h, w) = image.shape[-2:], self.lr.shape[-2:]
        top, left = (2 * self.top * H + h) // (2 * h), (2 * self.left * W + w) // (2 * w)
        return image[..., top : top + size[0], left : left + size[1]]


def padded(lr: Tensor, multiple: int = 1, minimum: int = 1) -> Padded:
    """Mirror an image at its borders, as often as it takes.

    The row at the border is not repeated, unless there is no other.

    Args:
        lr: (B, C, h, w) of any type; sides of 1 or more.
        multiple: Of which both sides shall be multiples; added below and on the right.
        minimum: Of both sides; added half before and half behind, the odd one behind, and first.

    Returns:
        The image, which is ``lr`` itself where nothing is missing.
    """
    above: list[int] = []
    for dim in (-2, -1):
        side = lr.shape[dim]
        middle = max(side, minimum)
        before, end = (middle - side) // 2, middle + -middle % multiple
        above.append(before)
        if end > side:
            rows = mirrored(torch.arange(end), middle) - before
            lr = lr.index_select(dim, mirrored(rows, side).to(lr.device))
    return Padded(lr, *above)


def mirrored(positions: Tensor, side: int) -> Tensor:
    """Whole numbers of any size, folded into 0 to ``side`` - 1 as between two mirrors."""
    folded = positions.remainder(max(2 * (side - 1), 1))
    return torch.minimum(folded, 2 * (side - 1) - folded)
