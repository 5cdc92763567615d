"""Convert a method's images to the integer levels of a file."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from callbacks.image_file import Pixels
from degradations.bicubic import resize

GREY = ("1", "L", "LA", "La", "I", "I;16", "I;16B", "I;16L")  # Pillow's modes
LUMA = (0.299, 0.587, 0.114)  # BT.601 in full range, as in Pillow's convert("L")


def image_levels(image: Tensor, meta: dict[str, Any]) -> Pixels:
    """Return the levels of an image as its input: grey or colour, 8 or 16 bit.

    Args:
        image: (3, H, W) in [0, 1].
        meta: The input's ``mode`` and ``bit_depth``.

    Returns:
        (H, W, 1 or 3) uint8 or uint16.
    """
    image = luma(image) if meta.get("mode") in GREY else image
    return to_pixels(image, meta.get("bit_depth", 8))


def luma(image: Tensor) -> Tensor:
    """Return the luma (1, H, W) of a (3, H, W) image in [0, 1], in the same range."""
    return (image * image.new_tensor(LUMA).view(3, 1, 1)).sum(0, keepdim=True)


def to_pixels(image: Tensor, bit_depth: int) -> Pixels:
    """Round an image to integer levels; this waits for the device.

    Args:
        image: (C, H, W) in [0, 1].
        bit_depth: 8 or 16.

    Returns:
        (H, W, C) uint8 or uint16.
    """
    levels = (image.float().clamp(0, 1) * (2**bit_depth - 1)).round().permute(1, 2, 0)
    if bit_depth == 8:
        return levels.to(torch.uint8).cpu().numpy()
    return levels.to(torch.int32).cpu().numpy().astype(np.uint16)


def enlarge_alpha(alpha: Pixels | Tensor, pixels: Pixels) -> Pixels:
    """Resize the input's (h, w) alpha by bicubic to the size and type of ``pixels``: (H, W, 1)."""
    # torch's own collate turns arrays into tensors; ours does not.
    alpha = alpha.cpu().numpy() if isinstance(alpha, Tensor) else alpha
    small = torch.from_numpy(alpha.astype(np.float32) / np.iinfo(alpha.dtype).max)
    large = resize(small[None, None], pixels.shape[:2])[0]
    return to_pixels(large, 8 * pixels.dtype.itemsize)
