"""Images and arrays, for tools and codecs."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

from files.images import decode
from files.images.deep import Pixels


def read_image(path: Path) -> Tensor:
    """Read an image as training and evaluation do: upright, in sRGB and without alpha.

    Returns:
        (1, 3, H, W) float32 in [0, 1].

    Raises:
        UnreadableImage: The file is missing, or is not an image.
    """
    pixels = decode.read_image(path, srgb=True).rgb
    white = np.float32(np.iinfo(pixels.dtype).max)
    scaled = pixels.astype(np.float32) / white
    image = torch.from_numpy(scaled).permute(2, 0, 1)
    return image.unsqueeze(0)


def as_tensor(levels: Pixels) -> Tensor:
    """Return levels as a tensor, without a copy where they may be written to."""
    return torch.from_numpy(levels if levels.flags.writeable else levels.copy())


def cropped(image: Tensor, size: int) -> Tensor:
    """Crop the square in the middle of an image: (1, 3, H, W) to (1, 3, size, size).

    Args:
        image: The image.
        size: Side of the square in pixels; at most the image's shorter side.
    """
    H, W = image.shape[-2:]
    size = min(size, H, W)
    top = (H - size) // 2
    left = (W - size) // 2
    rows = slice(top, top + size)
    columns = slice(left, left + size)
    return image[..., rows, columns].contiguous()


def as_image(image: Tensor) -> Image.Image:
    """Convert (1, C, H, W) or (C, H, W), C = 1 or 3, to Pillow, clamped and rounded to 8 bits."""
    channels = image.reshape(image.shape[-3:])
    rgb = channels.expand(3, -1, -1)  # one channel becomes grey
    return Image.fromarray(to_bytes(rgb))


Bytes = npt.NDArray[np.uint8]


def to_levels(image: Tensor) -> Bytes:
    """Clamp float32 of any shape to [0, 1], and return it rounded to 8 bits."""
    import cv2

    # OpenCV multiplies, rounds and limits to 255 in one pass. It takes absolute values.
    positive = image.detach().cpu().clamp_min(0.0)
    lines = positive.reshape(-1, image.shape[-1]).numpy()
    levels = cv2.convertScaleAbs(lines, alpha=255.0)
    return cast(Bytes, levels.reshape(image.shape))


def to_bytes(image: Tensor, bgr: bool = False) -> Bytes:
    """Clamp (3, H, W) float32 to [0, 1], round, and return (H, W, 3) uint8.

    Args:
        image: The image, in RGB order.
        bgr: Whether the result is in OpenCV's order.
    """
    import cv2

    planes = list(to_levels(image))
    return cast(Bytes, cv2.merge(planes[::-1] if bgr else planes))


def from_bytes(pixels: Bytes, like: Tensor) -> Tensor:
    """Convert (H, W, 3) uint8 to (1, 3, H, W) float32 in [0, 1].

    Args:
        pixels: The image.
        like: (B, 3, ...), for the device.
    """
    import cv2

    H, W, _ = pixels.shape
    planes = np.empty((3, H, W), np.uint8)
    cv2.split(pixels, list(planes))
    levels = torch.from_numpy(planes).to(like.device)
    return levels.unsqueeze(0) / 255.0
