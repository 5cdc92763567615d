"""Latents of HR and of the enlarged LR image, for methods that work in latents."""

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
    """Return latents of HR and of the enlarged LR; latents in the batch are used as they are.

    Args:
        space: The space of the latents.
        batch: ``lr``, and ``hr`` or its latent from ``main.py encode``.
        noise: Draws from the encoder's distribution, if it has one; by default its mean is used,
            as in ``encode``.

    Returns:
        Both (B, channels, h, w).

    Raises:
        ValueError: If the batch has latents of another space, or no LR.
    """
    if "latent" in batch:
        z = space.take(batch["latent"], batch["space"])
    else:
        z = space.encode(batch["hr"], noise)
    if "lr" not in batch:
        raise ValueError(
            "data.init_args.train has only latents, and this method also needs LR images: "
            "encode with --encode.pairs true, or with --encode.pictures true"
        )
    if "lr_latent" in batch:
        return z, space.standardised(batch["lr_latent"])
    return z, space.encode(enlarged(batch["lr"], batch["size"]), noise)


def whole_lr(pixels: int, scale: float) -> int:
    """Return the least number of LR pixels that is a whole multiple of so many output pixels."""
    return (pixels / Fraction(scale).limit_denominator(100)).numerator


def enlarged(lr: Tensor, size: tuple[int, int]) -> Tensor:
    """Enlarge as in the releases of ResShift and InvSR: bicubic, a = -0.75, no antialiasing.

    Args:
        lr: (B, 3, h, w).
        size: (H, W).

    Returns:
        (B, 3, H, W), not clamped.
    """
    return functional.interpolate(lr, size, mode="bicubic", align_corners=False)
