"""A batch of images of differing sizes in one tensor, for stages on a GPU.

A loop over images would need launches per image and stage, and reading a size back would make the
host wait. On a canvas each step takes a few launches for the whole batch and reads nothing back.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Canvas(NamedTuple):
    """Images of differing sizes, each in the top left corner of its canvas.

    pixels: (B, C, H, W) float32; pixels outside an image are finite and have no meaning.
    sizes: (B, 2) int64 on the pixels' device, the height and width of each image.
    hr_size: (H, W) of the images that entered the degradation; it bounds the canvas of a resize.
    filled: Whether all images are known to fill their canvas, so that the host need not read their
        sizes. `Stage.run_on_canvas` updates it.
    """

    pixels: Tensor
    sizes: Tensor
    hr_size: tuple[int, int]
    filled: bool = False

    @classmethod
    def of(cls, hr: Tensor) -> Canvas:
        """Return the canvas of (B, C, H, W) images of one size, which fill it."""
        size = (hr.shape[-2], hr.shape[-1])
        # Filled on the device: a copy from the host would be a transfer.
        sizes = torch.stack([torch.full((len(hr),), n, device=hr.device) for n in size], 1)
        return cls(hr, sizes, size, filled=True)

    def with_pixels(self, pixels: Tensor) -> Canvas:
        """Return a canvas of the same sizes with other pixels (B, C, H, W)."""
        return self._replace(pixels=pixels)

    def inside(self) -> Tensor:
        """Return (B, 1, H, W) bool, true for the pixels inside an image."""
        rows, columns = self._axes()
        height, width = self.sizes.view(-1, 2, 1, 1).unbind(1)
        return ((rows.view(-1, 1) < height) & (columns < width)).unsqueeze(1)

    def edges_repeated(self) -> Tensor:
        """Return (B, C, H, W), each image extended by its nearest pixels."""
        rows, columns = (
            torch.minimum(axis, (n - 1).unsqueeze(1))
            for axis, n in zip(self._axes(), self.sizes.unbind(1), strict=True)
        )
        return self.gather(rows, columns)

    def reflected(self, pad: int) -> Tensor:
        """Return (B, C, H + 2 pad, W + 2 pad), each image mirrored at its own edges.

        Edge pixels are not repeated, as in `numpy.pad(..., mode="reflect")`.
        """
        axes = (torch.arange(-pad, n + pad, device=self.pixels.device) for n in self._extent())
        rows, columns = (
            reflected_index(axis, n.unsqueeze(1))
            for axis, n in zip(axes, self.sizes.unbind(1), strict=True)
        )
        return self.gather(rows, columns)

    def gather(self, rows: Tensor, columns: Tensor) -> Tensor:
        """Gather (B, C, h, w) by the (B, h) row and (B, w) column numbers of each image."""
        B, C, _, W = self.pixels.shape
        h, w = rows.shape[1], columns.shape[1]
        positions = (rows.unsqueeze(2) * W + columns.unsqueeze(1)).view(B, 1, h * w)
        flat = self.pixels.reshape(B, C, -1)
        return flat.gather(2, positions.expand(B, C, h * w)).view(B, C, h, w)

    def _extent(self) -> tuple[int, int]:
        return self.pixels.shape[-2], self.pixels.shape[-1]

    def _axes(self) -> tuple[Tensor, Tensor]:
        rows, columns = (torch.arange(n, device=self.pixels.device) for n in self._extent())
        return rows, columns


def reflected_index(index: Tensor, n: Tensor | int) -> Tensor:
    """Mirror integers into [0, n) at both ends as often as needed; the ends are not repeated."""
    last = torch.as_tensor(n, device=index.device) - 1 if isinstance(n, int) else n - 1
    folded = index.abs() % (2 * last).clamp_min(1)
    return (last - (last - folded).abs()).clamp_min(0)


def select(mask: Tensor, chosen: Canvas, other: Canvas) -> Canvas:
    """Take each image from `chosen` where `mask` (B,) is true, else from `other`."""
    extent = [
        max(a, b) for a, b in zip(chosen.pixels.shape[-2:], other.pixels.shape[-2:], strict=True)
    ]
    a, b = (_padded_to(canvas.pixels, extent) for canvas in (chosen, other))
    pixels = torch.where(mask.view(-1, 1, 1, 1), a, b)
    sizes = torch.where(mask.view(-1, 1), chosen.sizes, other.sizes)
    alike = chosen.pixels.shape == other.pixels.shape
    return Canvas(pixels, sizes, chosen.hr_size, alike and chosen.filled and other.filled)


def _padded_to(pixels: Tensor, extent: list[int]) -> Tensor:
    bottom, right = (n - have for n, have in zip(extent, pixels.shape[-2:], strict=True))
    if bottom == right == 0:
        return pixels
    return torch.nn.functional.pad(pixels, (0, right, 0, bottom))
