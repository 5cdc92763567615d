"""Binary spherical quantisation (BSQ) of one scale, and of residuals at many scales.

Zhao et al., BSQ (arXiv 2406.07548); Han et al., Infinity (arXiv 2412.04431), section 3.2. A latent
of d channels is projected to the unit sphere, and each channel keeps only its sign: d bits per
position, and 2^d implicit codes.

Infinity has thirteen grids of scales for each aspect ratio; a pixel budget uses the first ones. A
token is 16 pixels wide. NSARM (arXiv 2510.00820) uses the square grids.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from lightning_modules.noise import Size

Down = Literal["area", "trilinear"]
Budget = Literal["0.06M", "0.25M", "0.60M", "1M"]

TAU = 100.0  # inverse temperature of the entropy penalty
_COUNT: dict[Budget, int] = {"0.06M": 7, "0.25M": 10, "0.60M": 12, "1M": 13}  # of scales
_TALL = {  # by height over width; transposed for wider images
    1.0: "1x1 2x2 4x4 6x6 8x8 12x12 16x16 20x20 24x24 32x32 40x40 48x48 64x64",
    1.25: "1x1 2x2 3x3 5x4 10x8 15x12 20x16 25x20 30x24 35x28 45x36 55x44 70x56",
    4 / 3: "1x1 2x2 4x3 8x6 12x9 16x12 20x15 24x18 28x21 36x27 48x36 60x45 72x54",
    1.5: "1x1 2x2 3x2 6x4 9x6 15x10 21x14 27x18 33x22 39x26 48x32 63x42 78x52",
    1.75: "1x1 2x2 3x3 7x4 11x6 14x8 21x12 28x16 35x20 42x24 56x32 70x40 84x48",
    2.0: "1x1 2x2 4x2 6x3 10x5 16x8 22x11 30x15 38x19 46x23 60x30 74x37 90x45",
    2.5: "1x1 2x2 5x2 10x4 15x6 20x8 25x10 30x12 40x16 50x20 65x26 80x32 100x40",
    3.0: "1x1 2x2 6x2 9x3 15x5 21x7 27x9 36x12 45x15 54x18 72x24 90x30 111x37",
}
RATIOS = tuple(sorted({*_TALL, *(1 / ratio for ratio in _TALL)}))
"""Height over width of the published grids."""


def quantized(z: Tensor) -> Tensor:
    """Return the nearest corner of the inscribed cube; its gradient is that of z / |z|.

    Args:
        z: (B, d, h, w) of any type; computed in float32.

    Returns:
        (B, d, h, w), of values +-1/sqrt(d), so of length 1 along d. Zero becomes -1/sqrt(d).
    """
    with torch.autocast(z.device.type, enabled=False):
        u = _on_sphere(z)
        corner = from_bits(to_bits(u))
        return corner + (u - u.detach())  # straight through: the value is exactly the corner's


def to_bits(z: Tensor) -> Tensor:
    """Return signs: 1 for values above 0, and 0 otherwise.

    Args:
        z: Any shape.

    Returns:
        uint8 in the shape of ``z``.
    """
    return (z > 0).to(torch.uint8)


def from_bits(bits: Tensor) -> Tensor:
    """Return the codes of bits.

    Args:
        bits: (B, d, h, w) of 0 and 1.

    Returns:
        (B, d, h, w), -1/sqrt(d) and 1/sqrt(d), float32.
    """
    return (2 * bits.float() - 1) * bits.shape[1] ** -0.5


def live_bits(bits: Tensor) -> Tensor:
    """Return how many of the d bits take both values, among all images and positions; a scalar.

    Args:
        bits: (B, d, h, w) of 0 and 1.
    """
    return (bits.amax((0, 2, 3)) != bits.amin((0, 2, 3))).sum()


class Scale(NamedTuple):
    """One scale of a latent.

    Args:
        residual: (B, d, h, w): the residual at this scale, before quantisation.
        code: (B, d, h, w): its code.
        total: (B, d, H, W): the sum of all codes so far, at full size.
    """

    residual: Tensor
    code: Tensor
    total: Tensor

    @property
    def bits(self) -> Tensor:
        """Bits of the residual, (B, d, h, w) of uint8, even where another code replaced its own."""
        return to_bits(self.residual)


def scales_of(
    f: Tensor,
    sizes: Sequence[Size],
    change: Callable[[int, Tensor], Tensor] | None = None,
    through: bool = False,
) -> Iterator[Scale]:
    """Quantise a latent scale by scale, each the residual of the previous ones.

    Gradients pass from each code to its own residual.

    Args:
        f: (B, d, H, W), of the encoder.
        sizes: (h, w) of the scales in positions of the latent; the last one is (H, W).
        change: Called with the number of a scale and its residual, returns the code to use instead
            of ``quantized(residual)``; later scales correct the difference.
        through: Whether gradients also pass from a residual to the codes subtracted from it, as in
            the training of Infinity's released tokenizers.

    Yields:
        The scales, coarse to fine.
    """
    h, w = f.shape[-2:]
    total = torch.zeros_like(f, dtype=torch.float32)
    for number, size in enumerate(sizes):
        subtracted = total if through else total.detach()
        residual = shrunk(f.float() - subtracted, size)
        code = quantized(residual) if change is None else change(number, residual)
        total = total + enlarged(code, (h, w))
        yield Scale(residual, code, total)


def total_after(codes: Sequence[Tensor]) -> Tensor:
    """Return the sum of all scales' codes at the last one's size, for the decoder.

    Args:
        codes: (B, d, h_k, w_k) of each scale.

    Returns:
        (B, d, h, w).
    """
    h, w = codes[-1].shape[-2:]
    return torch.stack([enlarged(code, (h, w)) for code in codes]).sum(0)


def shrunk(x: Tensor, size: Size, mode: Down = "area") -> Tensor:
    """Downscale.

    Args:
        x: (B, d, H, W).
        size: (h, w).
        mode: ``area``, the mean of each part, as for residuals; or ``trilinear``, Infinity's name
            for bilinear without antialiasing, as for the inputs of its transformer.
    """
    if x.shape[-2:] == tuple(size):
        return x
    if mode == "area":
        return functional.interpolate(x, size, mode="area")
    return functional.interpolate(x, size, mode="bilinear")  # torch's trilinear is for volumes


def enlarged(code: Tensor, size: Size) -> Tensor:
    """Upscale codes to full size.

    Args:
        code: (B, d, h, w).
        size: (H, W).
    """
    if code.shape[-2:] == tuple(size):
        return code
    return functional.interpolate(code, size, mode="bilinear")


def flipped(bits: Tensor, probability: float) -> Tensor:
    """Flip each bit with this probability: Infinity's bitwise self-correction.

    Args:
        bits: Any shape, 0 or 1.
        probability: In [0, 1].

    Returns:
        Bits in the shape of ``bits``.
    """
    drawn = torch.rand(bits.shape, device=bits.device)
    return torch.where(drawn < probability, 1 - bits, bits)


def entropy_penalty(z: Tensor) -> Tensor:
    """Return BSQ's entropy penalty, factorised over bits.

    It is lowest if each bit is certain in itself, and both its values are equally frequent: (mean
    entropy of each bit - entropy of its mean) / tau, with the inverse temperature tau = 100.

    Args:
        z: (B, d, h, w), before projection to the sphere.

    Returns:
        A scalar, at least -d ln 2 / tau.
    """
    with torch.autocast(z.device.type, enabled=False):
        u = _on_sphere(z).movedim(1, -1).flatten(0, -2)
        # TAU times the difference of the squared distances to -1/sqrt(d) and 1/sqrt(d).
        logit = 4 * TAU / u.shape[-1] ** 0.5 * u
        # The entropy of a Bernoulli variable from its logit, without log(0).
        entropy = functional.softplus(-logit) + torch.sigmoid(-logit) * logit
        usage = torch.sigmoid(logit).mean(0)
        # Clamped, as a constant bit has a probability of 0, whose logarithm has no gradient.
        probabilities = torch.stack([usage, 1 - usage])
        entropy_of_mean = -(probabilities * probabilities.clamp(min=1e-12).log()).sum()
        return (entropy.sum(-1).mean() - entropy_of_mean) / TAU


def commitment(scale: Scale) -> Tensor:
    """Return a scalar: the mean squared distance of a residual, on the sphere, to its code.

    Args:
        scale: The scale; its code gets no gradient.
    """
    return functional.mse_loss(_on_sphere(scale.residual), scale.code.detach())


def _on_sphere(z: Tensor) -> Tensor:
    """Scale each position of (B, d, h, w) to length 1 over its channels."""
    return functional.normalize(z.float(), dim=1)


def to_tokens(x: Tensor, patch: int) -> Tensor:
    """Convert a latent to rows of tokens.

    Args:
        x: (B, d, h patch, w patch).
        patch: Side of a token.

    Returns:
        (B, h w, d patch^2), channels by (c, dy, dx).
    """
    return functional.pixel_unshuffle(x, patch).flatten(2).transpose(1, 2)


def from_tokens(tokens: Tensor, grid: Size, patch: int) -> Tensor:
    """Convert rows of tokens to a latent, the inverse of ``to_tokens``.

    Args:
        tokens: (B, h w, d patch^2).
        grid: (h, w).
        patch: Side of a token.

    Returns:
        (B, d, h patch, w patch).
    """
    return functional.pixel_shuffle(tokens.transpose(1, 2).reshape(len(tokens), -1, *grid), patch)


@dataclass(frozen=True)
class Scales:
    """The scales of one image, coarse to fine.

    Args:
        grids: (h, w) of each scale in tokens.
        patch: Side of a token in positions of the latent: 1, or 2 if a token has four positions.
        full: Grid of the rotary embedding's positions; the last one by default. The released
            weights use that of 1M pixels at any budget.

    Raises:
        ValueError: If there is no grid, or one is smaller than the previous.
    """

    grids: Sequence[Size]
    patch: int = 1
    full: Size | None = None
    spans: tuple[slice, ...] = field(init=False, repr=False)
    """Positions of the tokens of each scale in the sequence."""

    def __post_init__(self) -> None:
        grids = tuple((int(h), int(w)) for h, w in self.grids)
        heights = [h for h, _ in grids]
        widths = [w for _, w in grids]
        if not grids or heights != sorted(heights) or widths != sorted(widths):
            raise ValueError(f"grids are {list(grids)}; expected sides that never become smaller")
        spans = []
        start = 0
        for h, w in grids:
            spans.append(slice(start, start + h * w))
            start += h * w
        # The dataclass is frozen, which refuses plain assignments.
        object.__setattr__(self, "grids", grids)
        object.__setattr__(self, "full", tuple(self.full or grids[-1]))  # the finest by default
        object.__setattr__(self, "spans", tuple(spans))

    def __len__(self) -> int:
        """Return the number of scales."""
        return len(self.grids)

    @property
    def tokens(self) -> int:
        """Number of tokens of all scales."""
        return self.spans[-1].stop

    @property
    def latents(self) -> list[Size]:
        """(h, w) of each scale in positions of the latent."""
        return [(h * self.patch, w * self.patch) for h, w in self.grids]


def published(ratio: float = 1.0, budget: Budget = "1M", patch: int = 1) -> Scales:
    """Return the scales that the released weights were trained with.

    Args:
        ratio: Height over width; the nearest of the fifteen is used.
        budget: Pixels of the image.
        patch: Side of a token in positions of the latent: 2 for the autoencoder of 14 bits.
    """
    nearest = min(RATIOS, key=lambda candidate: abs(candidate - ratio))
    # Grids are listed for tall images; those of wide ones are transposed below.
    tall = min(_TALL, key=lambda candidate: abs(candidate - max(nearest, 1 / nearest)))
    grids = []
    for size in _TALL[tall].split():
        h, w = map(int, size.split("x"))
        grids.append((w, h) if nearest < 1 else (h, w))
    return Scales(grids[: _COUNT[budget]], patch, grids[-1])  # `full` at any budget: that of 1M


def proportional(sizes: Sequence[Size], size: Size) -> list[Size]:
    """Return the sizes of scales for a latent of another size, in proportion to the last one.

    Args:
        sizes: (h, w) of each scale; the last one is the latent's.
        size: (h, w) of the other latent.
    """
    H, W = sizes[-1]
    scaled = []
    for h, w in sizes:
        height = max(round(h * size[0] / H), 1)
        width = max(round(w * size[1] / W), 1)
        scaled.append((height, width))
    return scaled
