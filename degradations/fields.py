"""Noise fields from one seed per image: the field of an image is the same in any batch.

On the CPU each image has its own generator. On a GPU, where that would need a launch per image, an
integer hash of (seed, channel, row, column) fills the whole batch in a few fused kernels. A field
is therefore the same on all devices of one kind, but differs between CPU and GPU. A hashed field
does not depend on the size of the canvas either.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor

from degradations.draws import GAMMA, MULTIPLIERS, SHIFTS

_NORMAL_BITS = 15  # of the indices of normal quantiles

_hash_everywhere = False


@contextmanager
def hashed_fields() -> Iterator[None]:
    """Hash on the CPU, too, to compare it with a GPU, or to compare the executors."""
    global _hash_everywhere
    before, _hash_everywhere = _hash_everywhere, True
    try:
        yield
    finally:
        _hash_everywhere = before


def seeded_randn_like(x: Tensor, seeds: Tensor) -> Tensor:
    """Return standard normal noise of the shape, dtype and device of `x`.

    Args:
        x: (B, C, H, W), floating; values and memory format do not matter.
        seeds: (B,) int64 on x's device, e.g. from `Draws.seeds`.

    Raises:
        ValueError: `seeds` is not one integer per image.
    """
    _check_seeds(x, seeds)
    if x.device.type != "cpu" or _hash_everywhere:
        return hashed_randn(x.shape, seeds).to(x.dtype)
    # Always contiguous: a generator fills strided memory in another order.
    fields = torch.empty(x.shape, dtype=torch.float32)
    generator = torch.Generator()
    for field, seed in zip(fields, seeds.tolist(), strict=True):
        field.normal_(generator=generator.manual_seed(_generator_seed(seed)))
    return fields.to(x.dtype)


def seeded_integers_like(x: Tensor, seeds: Tensor, bits: int) -> Tensor:
    """Return uniform int32 in [0, 2**bits), of the shape and device of `x`.

    Args:
        x: (B, C, H, W); values, dtype and memory format do not matter.
        seeds: (B,) int64 on x's device, e.g. from `Draws.seeds`.
        bits: 1 to 15.

    Raises:
        ValueError: `seeds` is not one integer per image.
    """
    _check_seeds(x, seeds)
    if x.device.type != "cpu" or _hash_everywhere:
        return hashed_integers(x.shape, seeds, bits)
    size = math.prod(x.shape[1:])
    # SFC64, whose words NumPy keeps stable; takes half the time of torch's `random_`.
    generators = [np.random.SFC64(seed & 0xFFFFFFFFFFFFFFFF) for seed in seeds.tolist()]
    words = [generator.random_raw(-(-size // 4)) for generator in generators]
    halves = torch.from_numpy(words[0] if len(words) == 1 else np.stack(words)).view(torch.int16)
    picked = halves.bitwise_and_((1 << bits) - 1).view(len(x), -1)[:, :size]
    return picked.to(torch.int32).view(x.shape)


def quick_randn_like(x: Tensor, seeds: Tensor) -> Tensor:
    """Return noise as `seeded_randn_like`, from a table of 32,768 quantiles, for 8-bit images.

    Mean 0 and variance 1 are exact; the rarest 1 in 65,536 on either side (beyond 4.17 standard
    deviations) is missing. Takes 60 % of the time of torch's `normal_` on a CPU, and no logarithm
    or cosine elsewhere.

    Args:
        x: (B, C, H, W); values, dtype and memory format do not matter.
        seeds: (B,) int64 on x's device, e.g. from `Draws.seeds`.

    Returns:
        float32, of x's shape.
    """
    places = seeded_integers_like(x, seeds, _NORMAL_BITS)
    return _normal_quantiles(str(x.device)).index_select(0, places.view(-1)).view(places.shape)


# A constant of the compiled graph, not computed again in every batch.
@torch.compiler.assume_constant_result
def _normal_quantiles(device: str) -> Tensor:
    return _normal_quantiles_on(device)


@functools.lru_cache(maxsize=16)  # one per device
def _normal_quantiles_on(device: str) -> Tensor:
    middles = (torch.arange(1 << _NORMAL_BITS, dtype=torch.float64) + 0.5) / (1 << _NORMAL_BITS)
    quantiles = torch.special.ndtri(middles)
    table = (quantiles / quantiles.square().mean().sqrt()).float()
    # Pinned, so that the host does not wait for the copy.
    return table if device == "cpu" else table.pin_memory().to(device, non_blocking=True)


def hashed_randn(shape: torch.Size, seeds: Tensor) -> Tensor:
    """Return (B, C, H, W) float32 standard normal noise on the seeds' device; no synchronisation.

    Box-Muller makes the pixels (2k, 2k + 1) of a row from one 64-bit word.
    """
    _, C, H, W = shape
    words = _hashed_words(seeds, C, H, (W + 1) // 2)
    upper, lower = (words >> 32) & 0xFFFFFFFF, words & 0xFFFFFFFF
    # Half a step above 0, to avoid log(0).
    radius = ((upper.float() + 0.5) * 2.0**-32).log().mul(-2.0).sqrt()
    angle = lower.float() * (2.0 * math.pi * 2.0**-32)
    pairs = torch.stack((radius * angle.cos(), radius * angle.sin()), dim=-1)
    return pairs.flatten(-2)[..., :W]


def hashed_integers(shape: torch.Size, seeds: Tensor, bits: int) -> Tensor:
    """Return (B, C, H, W) int32 in [0, 2**bits) on the seeds' device; no synchronisation."""
    _, C, H, W = shape
    return ((_hashed_words(seeds, C, H, W) >> 32) & ((1 << bits) - 1)).to(torch.int32)


def _hashed_words(seeds: Tensor, C: int, H: int, W: int) -> Tensor:
    # Indexed by (channel, row, column) with fixed strides, independent of the canvas.
    channel, row, column = (
        torch.arange(n, device=seeds.device) << shift for n, shift in ((C, 48), (H, 24), (W, 0))
    )
    place = channel.view(-1, 1, 1) + row.view(-1, 1) + column
    starts = _mix(seeds + _signed(GAMMA)).view(-1, 1, 1, 1)
    return _mix(starts + place * _signed(GAMMA))


def _generator_seed(seed: int) -> int:
    # The generator reads 32 bits of its seed: fold in the upper half.
    return (seed ^ (seed >> 32)) & 0xFFFFFFFF


def _check_seeds(x: Tensor, seeds: Tensor) -> None:
    if seeds.shape != x.shape[:1] or seeds.dtype != torch.int64:
        raise ValueError(
            f"field seeds are {seeds.dtype} of shape {tuple(seeds.shape)}; expected torch.int64 of "
            f"shape ({x.shape[0]},), one per image (Draws.seeds() gives them)"
        )


def _signed(word: int) -> int:
    """Return the int64 with the bits of a uint64; torch's int64 arithmetic wraps the same way."""
    return word - (1 << 64) if word >> 63 else word


def _mix(words: Tensor) -> Tensor:
    """Compute `draws.mix` on int64 tensors."""
    for shift, multiplier in zip(SHIFTS, (*MULTIPLIERS, 1), strict=True):
        # >> copies the sign of an int64: mask it for a logical shift.
        words = (words ^ ((words >> shift) & ((1 << (64 - shift)) - 1))) * _signed(multiplier)
    return words
