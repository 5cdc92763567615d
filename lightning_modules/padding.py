"""Pad LR images to a network's sizes by mirroring, and crop the output exactly."""

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
        """Crop an output to the image without its borders.

        Exact if the added rows and columns are whole numbers of output pixels, as at any whole
        factor, and if nothing was added above and on the left.

        Args:
            image: (B, C, H', W'), the output for ``lr``, at any factor.
            size: (H, W) of the result.

        Returns:
            (B, C, H, W), a view.
        """
        (H, W), (h, w) = image.shape[-2:], self.lr.shape[-2:]
        top, left = (2 * self.top * H + h) // (2 * h), (2 * self.left * W + w) // (2 * w)
        return image[..., top : top + size[0], left : left + size[1]]


def padded(lr: Tensor, multiple: int = 1, minimum: int = 1) -> Padded:
    """Mirror an image at its borders, repeatedly if necessary.

    The border row itself is not repeated, unless it is the only one.

    Args:
        lr: (B, C, h, w) of any type; sides of 1 or more.
        multiple: Pad both sides to multiples of this, below and on the right.
        minimum: Before that, pad both sides to this: half before and half after, the odd one after.

    Returns:
        The padded image; ``lr`` itself if nothing was added.
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
    """Fold any integers into 0 to ``side`` - 1, as between two mirrors."""
    folded = positions.remainder(max(2 * (side - 1), 1))
    return torch.minimum(folded, 2 * (side - 1) - folded)
