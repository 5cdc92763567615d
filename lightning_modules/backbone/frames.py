"""Functions for images (four dimensions), applied to clips (five dimensions).

A clip is (B, F, 3, H, W), like a list of images; its latent is (B, C, F, h, w), as in video
networks. Functions of single frames are applied to (B F, ...).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

PIXELS = 1024 * 1024  # of frames per call of an autoencoder


def of_clip(encode: Callable[[Tensor], Tensor], clip: Tensor) -> Tensor:
    """Encode clips by an encoder of images, a few frames at a time.

    Args:
        encode: (N, 3, H, W) to (N, C, h, w).
        clip: (B, F, 3, H, W).

    Returns:
        (B, C, F, h, w).
    """
    found = _by_parts(encode, clip.flatten(0, 1), clip.shape[-2] * clip.shape[-1])
    return found.reshape(*clip.shape[:2], *found.shape[1:]).transpose(1, 2)


def to_clip(decode: Callable[[Tensor], Tensor], z: Tensor, factor: int) -> Tensor:
    """Decode clips by a decoder of images.

    Args:
        decode: (N, C, h, w) to (N, 3, H, W).
        z: (B, C, F, h, w).
        factor: Pixels of an image per position of ``z``, along a side.

    Returns:
        (B, F, 3, H, W).
    """
    each = z.transpose(1, 2)
    pixels = z.shape[-2] * z.shape[-1] * factor**2
    found = _by_parts(decode, each.flatten(0, 1), pixels)
    return found.reshape(*each.shape[:2], *found.shape[1:])


def resized(x: Tensor, size: tuple[int, int], mode: str) -> Tensor:
    """Resize images, clips, or latents of either.

    Args:
        x: (..., C, h, w).
        size: (H, W) of the result.
        mode: ``bilinear`` or ``bicubic``, with half-pixel centres and no antialiasing; ``area``;
            ``nearest-exact``.
    """
    corners = False if mode in ("bilinear", "bicubic") else None
    found = functional.interpolate(x.flatten(0, -4), size, mode=mode, align_corners=corners)
    return found.reshape(*x.shape[:-2], *size)


def repeated(t: Tensor, z: Tensor) -> Tensor:
    """Repeat a value per sample for each frame: (B, ...) to (B F, ...); unchanged for images.

    Args:
        t: Timesteps, or other values per sample.
        z: (B, C, F, h, w) or (B, C, h, w).
    """
    return t if z.ndim == 4 else t.repeat_interleave(z.shape[2], 0)


def _by_parts(function: Callable[[Tensor], Tensor], frames: Tensor, pixels: int) -> Tensor:
    at_once = max(PIXELS // pixels, 1)
    return torch.cat([function(part) for part in torch.split(frames, at_once)])
