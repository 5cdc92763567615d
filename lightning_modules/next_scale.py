"""Training and sampling of a next-scale model, shared by Infinity and NSARM.

Han et al., Infinity (CVPR 2025; arXiv 2412.04431).

f     latent of an image, not quantised         C_k   sum of the codes up to scale k
b_k   target bits of scale k                    n_k   input at scale k: C_(k-1), downscaled

The transformer predicts b_k from n_1 ... n_k. The target of scale k is the residual of f after
C_(k-1), so later bits correct earlier ones that were flipped or given.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from lightning_modules.networks.bsq import (
    Down,
    enlarged,
    flipped,
    from_bits,
    from_tokens,
    quantized,
    scales_of,
    shrunk,
    to_bits,
    to_tokens,
)
from lightning_modules.networks.infinity import InfinityTransformer, Mixture, Text
from lightning_modules.networks.infinity_block import Cache, EncodedText
from lightning_modules.networks.scales import Scales, Size
from lightning_modules.noise import Noise

Change = Callable[[int, Tensor], Tensor]

# ---------------------------------------------------------------------------------------- training


class Forced(NamedTuple):
    """Inputs and targets of the transformer, for all scales at once.

    Args:
        inputs: (B, n, bits): n_2 ... n_K, as tokens.
        bits: (B, n, bits) of 0 and 1: b_1 ... b_K, as tokens.
    """

    inputs: Tensor
    bits: Tensor


def forced(
    f: Tensor, scales: Scales, change: Change | None = None, mode: Down = "trilinear"
) -> Forced:
    """Teacher forcing, section 3.3 of Infinity.

    Args:
        f: (B, d, h, w).
        scales: Scales of this latent.
        change: Replaces the right bits; as in ``scales_of``.
        mode: How C_k is downscaled.

    Raises:
        ValueError: If the latent has another size than the last scale.
    """
    bits, inputs = [], []
    for number, scale in enumerate(scales_of(f, scales.latents, change)):
        bits.append(to_tokens(scale.bits.float(), scales.patch))
        if number + 1 < len(scales):
            below = shrunk(scale.total, scales.latents[number + 1], mode)
            inputs.append(to_tokens(below, scales.patch))
    none = bits[0][:, :0]
    return Forced(torch.cat(inputs, 1) if inputs else none, torch.cat(bits, 1))


def self_correction(strength: float, levels: int) -> Change:
    """Bitwise self-correction: flip a share of the bits of the first scales.

    The share is drawn for each scale, from 0, 0.01, ... to ``strength``, for the whole batch.

    Args:
        strength: Largest share, in [0, 1].
        levels: Number of first scales to flip bits in.

    Source: Infinity, section 3.4 and algorithm 2.
    """

    def change(number: int, residual: Tensor) -> Tensor:
        if number >= levels:
            return quantized(residual)
        share = int(torch.randint(0, round(100 * strength) + 1, ())) / 100
        return from_bits(flipped(to_bits(residual), share))

    return change


def scale_weights(scales: Scales, first: int = 0, reweight: bool = True) -> Tensor:
    """Return weights (n,) of the tokens from scale ``first`` on, with sum 1.

    Args:
        scales: Scales of the image.
        first: Number of the first scale that counts.
        reweight: Weight tokens of a grid of h w by 1 / sqrt(h w), so that fine scales, with most of
            the tokens, do not dominate; otherwise all tokens count equally.
    """
    parts = [
        torch.full((h * w,), 1 / math.sqrt(h * w) if reweight else 1.0)
        for h, w in scales.grids[first:]
    ]
    weights = torch.cat(parts)
    return weights / weights.sum()


def bit_losses(logits: Tensor, bits: Tensor) -> Tensor:
    """Return the cross-entropy of each token, the mean over its bits.

    Args:
        logits: (B, n, bits, 2).
        bits: (B, n, bits) of 0 and 1, float.

    Returns:
        (B, n) in nats.
    """
    odds = logits[..., 1] - logits[..., 0]
    return functional.binary_cross_entropy_with_logits(odds, bits, reduction="none").mean(-1)


# ---------------------------------------------------------------------------------------- sampling


@dataclass(frozen=True)
class Bitwise:
    """How bits are drawn.

    Args:
        tau: Temperature; 0 for the likelier value.
        top_p: The less likely value of a bit is never drawn if its probability is at most
            1 - ``top_p``.
        guidance: Strength of classifier-free guidance; 1 for none.
        guidance_after: Number of blocks after which the two passes of guidance are mixed; by
            default their logits are mixed.

    Raises:
        ValueError: If a number is out of range.
    """

    tau: float = 0.5
    top_p: float = 0.97
    guidance: float = 1.0
    guidance_after: int | None = None

    def __post_init__(self) -> None:
        if not (self.tau >= 0 and 0.5 <= self.top_p <= 1 and self.guidance >= 1):
            raise ValueError(
                f"model.init_args.bits draws with tau {self.tau}, top_p {self.top_p} and guidance "
                f"{self.guidance}; expected 0 or more, 0.5 to 1, and 1 or more"
            )

    @property
    def options(self) -> dict[str, str | int | float]:
        """Settings that differ from the defaults, for results."""
        default = Bitwise()
        names = ("tau", "top_p", "guidance", "guidance_after")
        return {n: getattr(self, n) for n in names if getattr(self, n) != getattr(default, n)}


def drawn(logits: Tensor, uniform: Tensor, how: Bitwise) -> Tensor:
    """Draw bits.

    Args:
        logits: (B, n, bits, 2).
        uniform: (B, n, bits), random numbers in [0, 1).
        how: Temperature and top-p.

    Returns:
        (B, n, bits) of 0 and 1, float.
    """
    odds = logits[..., 1] - logits[..., 0]
    if how.tau == 0:
        return (odds > 0).float()
    one = torch.sigmoid(odds / how.tau)
    rare = 1 - how.top_p
    one = torch.where(one <= rare, 0.0, torch.where(one >= 1 - rare, 1.0, one))
    return (uniform < one).float()


def drawn_code(logits: Tensor, noise: Noise, grid: Size, patch: int, how: Bitwise) -> Tensor:
    """Draw the code of one scale, with noise by the position in the image.

    Args:
        logits: (B, h w, bits, 2).
        noise: Noise of B images.
        grid: (h, w) in tokens.
        patch: Side of a token.
        how: How bits are drawn.

    Returns:
        (B, d, h patch, w patch).
    """
    channels, sides = logits.shape[2] // patch**2, [side * patch for side in grid]
    normal = noise.normal((len(logits), channels, *sides))
    uniform = torch.special.ndtr(normal).clamp(max=1 - 2**-24)  # not 1
    bits = drawn(logits, to_tokens(uniform, patch), how)
    return from_bits(from_tokens(bits, grid, patch))


def sample(
    network: InfinityTransformer,
    scales: Scales,
    text: Text,
    noise: Noise,
    how: Bitwise,
    known: Sequence[Tensor] = (),
    mode: Down = "trilinear",
    at_once: bool = True,
) -> list[Tensor]:
    """Draw the codes of all scales, each given the previous ones.

    Args:
        network: The transformer.
        scales: Scales of the images.
        text: Text of B images; with guidance of 2B, the second half unconditional.
        noise: Noise of B images; draws depend on the position in the image.
        how: How bits are drawn.
        known: (B, d, h, w), given codes of the first scales.
        mode: How sums of codes are downscaled.
        at_once: Whether known scales go through the network in one pass instead of one each; the
            results differ only by rounding.

    Returns:
        (B, d, h_k, w_k) of each scale.
    """
    encoded = network.encode_text(text)
    cache, copies = Cache(scales.tokens), 1 if how.guidance == 1 else 2
    codes, inputs = list(known), list[Tensor]()
    total: Tensor | float = 0.0
    first = 0
    for number, grid in enumerate(scales.grids):
        if number:
            size = scales.latents[-1]
            total = total + enlarged(codes[number - 1], size)
            below = to_tokens(shrunk(total, scales.latents[number], mode), scales.patch)
            inputs.append(below.repeat(copies, 1, 1))
        if number < len(known) and at_once:
            continue
        logits = _logits(network, inputs, scales, encoded, first, cache, how)
        inputs, first = [], number + 1
        if number >= len(known):
            here = logits[:, -grid[0] * grid[1] :]
            codes.append(drawn_code(here, noise, grid, scales.patch, how))
    return codes


def _logits(
    network: InfinityTransformer,
    inputs: Sequence[Tensor],
    scales: Scales,
    encoded: EncodedText,
    first: int,
    cache: Cache,
    how: Bitwise,
) -> Tensor:
    tokens = torch.cat(list(inputs), 1) if inputs else None
    mixture = None
    if how.guidance != 1 and how.guidance_after is not None:
        mixture = Mixture(how.guidance_after, how.guidance)
    logits: Tensor = network(tokens, scales, encoded, first, cache, mixture)
    if how.guidance == 1:
        return logits
    with_it, without = logits.chunk(2)
    return with_it if mixture is not None else without + how.guidance * (with_it - without)
