"""Images, clips and noise that tests share: always the same, each made once here."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from skimage import data
from torch import Tensor
from torch.nn import functional


def uniform(*shape: int, seed: int = 0) -> Tensor:
    """Numbers in [0, 1), such as pixels."""
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def make_images(batch: int, size: tuple[int, int]) -> Tensor:
    """(B, 3, H, W) in [0, 1]: smooth and rough parts, edges, clipped black and white."""
    generator = torch.Generator().manual_seed(1)
    height, width = size
    y = torch.linspace(0, 6, height).view(-1, 1)
    x = torch.linspace(0, 6, width)
    phase = torch.rand(batch, 3, 1, 1, generator=generator) * 6
    rough = torch.rand(batch, 3, height, width, generator=generator) - 0.5
    return (0.5 + 0.7 * torch.sin(x + y + phase) + 0.2 * rough).clamp(0, 1)


def photograph(height: int, width: int, name: str = "astronaut", corner: int = 60) -> np.ndarray:
    """A crop (H, W, 3) uint8 of one of scikit-image's photographs.

    Args:
        height: Rows.
        width: Columns.
        name: "astronaut", "coffee" or "chelsea".
        corner: The first row and column.
    """
    pixels = getattr(data, name)()
    return pixels[corner : corner + height, corner : corner + width].copy()


def as_tensor(pixels: np.ndarray) -> Tensor:
    """(H, W, 3) uint8 as (1, 3, H, W) float32 in [0, 1]."""
    return torch.from_numpy(pixels).permute(2, 0, 1)[None].float() / 255


def smooth(count: int, size: tuple[int, int], cell: int = 5, seed: int = 0) -> Tensor:
    """(B, 3, H, W) in [0, 1]: random colours in squares of `cell` pixels, interpolated."""
    coarse = uniform(count, 3, size[0] // cell, size[1] // cell, seed=seed)
    return functional.interpolate(coarse, size, mode="bilinear")


def noisy(images: Tensor, level: float = 0.05) -> Tensor:
    """The images with the same Gaussian noise each time, in [0, 1]."""
    noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(1))
    return (images + level * noise).clamp(0, 1)


def read(path: Path) -> Tensor:
    """An image file as (1, 3, H, W) float32 in [0, 1]."""
    return as_tensor(np.array(Image.open(path).convert("RGB")))


def keys(count: int) -> Any:
    """What metrics read of a batch: the names of its images, a/0, a/1 ..."""
    return {"key": [f"a/{number}" for number in range(count)]}
