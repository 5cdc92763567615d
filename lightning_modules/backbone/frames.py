"""Clips among images: where five dimensions meet what is made for four.

A clip is (B, F, 3, H, W), frames before colours as a list of images has them; its latent is
(B, C, F, h, w), as networks of video take it. All that knows of either is here: what is done to
each frame alone is done to (B F, ...).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

PIXELS = 1024 * 1024  # of frames that go through an autoencoder together


def of_clip(encode: Callable[[Tensor], Tensor], clip: Tensor) -> Tensor:
    """Latents of clips by an encoder of images, a few frames at a time.

    Args:
        encode: (N, 3, H, W) to (N, C, h, w).
        clip: (B, F, 3, H, W).

    Returns:
        (B, C, F, h, w).
    """
    found = _by_parts(encode, clip.flatten(0, 1), clip.shape[-2] * clip.shape[-1])
    return found.reshape(*clip.shape[:2], *found.shape[1:]).transpose(1, 2)


def to_clip(decode: Callable[[Tensor], Tensor], z: Tensor, factor: int) -> Tensor:
    """Clips again, by a decoder of images.

    Args:
        decode: (N, C, h, w) to (N, 3, H, W).
        z: (B, C, F, h, w).
        factor: Pixels of an image, along a side, for one of ``z``.

    Returns:
        (B, F, 3, H, W).
    """
    each = z.transpose(1, 2)
    pixels = z.shape[-2] * z.shape[-1] * factor**2
    found = _by_parts(decode, each.flatten(0, 1), pixels)
    return found.reshape(*each.shape[:2], *found.shape[1:])


def resized(x: Tensor, size: tuple[int, int], mode: str) -> Tensor:
    """(..., C, H, W) of another height and width: of images, of clips, or of latents of either.

    Args:
        x: It.
        size: (H, W) that is wanted.
        mode: ``bilinear`` or ``bicubic``, with half-pixel centres and no antialiasing; ``area``;
            ``nearest-exact``.
    """
    corners = False if mode in ("bilinear", "bicubic") else None
    found = functional.interpolate(x.flatten(0, -4), size, mode=mode, align_corners=corners)
    return found.reshape(*x.shape[:-2], *size)


def repeated(t: Tensor, z: Tensor) -> Tensor:
    """What each sample has, for each of its frames: (B, ...) to (B F, ...); of images as it is.

    Args:
        t: Timesteps, or what else a sample has.
        z: (B, C, F, h, w) or (B, C, h, w).
    """
    return t if z.ndim == 4 else t.repeat_interleave(z.shape[2], 0)


def _by_parts(function: Callable[[Tensor], Tensor], frames: Tensor, pixels: int) -> Tensor:
    at_once = max(PIXELS // pixels, 1)
    return torch.cat([function(part) for part in torch.split(frames, at_once)])
