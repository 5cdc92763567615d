"""Noise fields from one seed an image: the field of an image is the same in any batch.

On the CPU each image has a generator of its own; on a GPU, where a generator an image would be a
launch an image, an integer hash of (seed, position) fills the whole batch in a few fused kernels.
So a field is the same wherever it is made on one kind of device, not across the two kinds.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from degradations.draws import GAMMA, MULTIPLIERS, SHIFTS


def seeded_randn_like(x: Tensor, seeds: Tensor) -> Tensor:
    """Standard normal noise of the shape, dtype and device of `x`.

    Args:
        x: (B, ...), floating; its values and its memory format do not matter.
        seeds: (B,) int64 on x's device, e.g. from `Draws.seeds`.

    Raises:
        ValueError: `seeds` is not one integer an image.
    """
    if seeds.shape != x.shape[:1] or seeds.dtype != torch.int64:
        raise ValueError(
            f"field seeds are {seeds.dtype} of shape {tuple(seeds.shape)}; expected torch.int64 of "
            f"shape ({x.shape[0]},), one an image (Draws.seeds() gives them)"
        )
    fill = _by_generators if x.device.type == "cpu" else hashed_randn
    return fill(x.shape, seeds).to(x.dtype)


def _by_generators(shape: torch.Size, seeds: Tensor) -> Tensor:
    # Contiguous whatever x is: the same generator fills strided memory in another order.
    fields = torch.empty(shape, dtype=torch.float32, device="cpu")
    generator = torch.Generator("cpu")
    for field, seed in zip(fields, seeds.tolist(), strict=True):
        # The generator reads 32 bits of its seed: let the upper half count too.
        field.normal_(generator=generator.manual_seed((seed ^ (seed >> 32)) & 0xFFFFFFFF))
    return fields


def hashed_randn(shape: torch.Size, seeds: Tensor) -> Tensor:
    """(B, ...) float32 standard normal noise on the seeds' device, without host synchronisation.

    Element pairs (2k, 2k + 1) of an image come by Box-Muller from the k-th word of the splitmix64
    stream of its seed, so an image's field does not depend on its neighbours in the batch.
    """
    size = math.prod(shape[1:])
    steps = torch.arange((size + 1) // 2, device=seeds.device) * _signed(GAMMA)
    words = _mix(_mix(seeds + _signed(GAMMA)).unsqueeze(1) + steps)
    upper, lower = (words >> 32) & 0xFFFFFFFF, words & 0xFFFFFFFF
    # Half a step above 0, where the logarithm is infinite.
    radius = ((upper.float() + 0.5) * 2.0**-32).log().mul(-2.0).sqrt()
    angle = lower.float() * (2.0 * math.pi * 2.0**-32)
    pairs = torch.stack((radius * angle.cos(), radius * angle.sin()), dim=-1)
    return pairs.flatten(1)[:, :size].reshape(shape)


def _signed(word: int) -> int:
    """The int64 with the bits of a uint64: torch has no unsigned arithmetic, and wraps alike."""
    return word - (1 << 64) if word >> 63 else word


def _mix(words: Tensor) -> Tensor:
    """`draws.mix` on int64 tensors."""
    for shift, multiplier in zip(SHIFTS, (*MULTIPLIERS, 1), strict=True):
        # >> copies the sign of an int64: mask it off for the logical shift.
        words = (words ^ ((words >> shift) & ((1 << (64 - shift)) - 1))) * _signed(multiplier)
    return words
