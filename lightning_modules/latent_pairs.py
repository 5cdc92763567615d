"""Latents of HR and of the enlarged LR image, as methods in latents train and start with."""

from __future__ import annotations

from fractions import Fraction
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional

from lightning_modules.backbone.space import Space
from lightning_modules.noise import Noise

if TYPE_CHECKING:
    from datamodules.base import Batch


@torch.no_grad()
def latent_pair(space: Space, batch: Batch, noise: Noise | None = None) -> tuple[Tensor, Tensor]:
    """Latents of HR and of the enlarged LR; those that the batch brings along are not computed.

    Args:
        space: Of which they are.
        batch: ``lr``, and ``hr`` or what ``main.py encode`` made of it.
        noise: To draw from the encoder's distribution, where it has one; by default its mean, which
            is also what ``encode`` wrote.

    Returns:
        Both (B, channels, h, w).

    Raises:
        ValueError: The batch brings latents of another space, or no LR.
    """
    if "latent" in batch:
        z = space.take(batch["latent"], batch["space"])
    else:
        z = space.encode(batch["hr"], noise)
    if "lr" not in batch:
        raise ValueError(
            "data.init_args.train gives latents alone, and this method wants LR images too: "
            "encode with --encode.pairs true, or with --encode.pictures true"
        )
    if "lr_latent" in batch:
        return z, space.standardised(batch["lr_latent"])
    return z, space.encode(enlarged(batch["lr"], batch["size"]), noise)


def whole_lr(pixels: int, scale: float) -> int:
    """The least number of LR pixels that is a whole multiple of so many output pixels."""
    return (pixels / Fraction(scale).limit_denominator(100)).numerator


def enlarged(lr: Tensor, size: tuple[int, int]) -> Tensor:
    """Enlarge as ResShift and InvSR were released: bicubic, a = -0.75, not antialiased or clamped.

    Args:
        lr: (B, 3, h, w).
        size: (H, W).

    Returns:
        (B, 3, H, W).
    """
    return functional.interpolate(lr, size, mode="bicubic", align_corners=False)
