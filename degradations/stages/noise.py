"""Noise stages, and random fields that depend on the sample's seed alone.

On the CPU each image has its own generator. On a GPU, where that would need a launch per image, an
integer hash of (seed, channel, row, column) fills the whole batch in a few fused kernels. A field
is therefore the same on all devices of one kind, but differs between CPU and GPU. A hashed field
does not depend on the size of the canvas either.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor

from degradations.base import Canvas, Stage, check_range, each_image
from degradations.device import constant
from degradations.draws import GAMMA, MULTIPLIERS, SHIFTS, Draws, Params, per_image
from files.numbers import UnitInterval

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
    """
    if x.device.type != "cpu" or _hash_everywhere:
        return quick_randn_like(x, seeds).to(x.dtype)
    # Always contiguous: a generator fills strided memory in another order.
    fields = torch.empty(x.shape, dtype=torch.float32)
    generator = torch.Generator()
    for field, seed in zip(fields, seeds.tolist(), strict=True):
        # The generator reads 32 bits of its seed: fold in the upper half.
        folded = (seed ^ (seed >> 32)) & 0xFFFFFFFF
        field.normal_(generator=generator.manual_seed(folded))
    return fields.to(x.dtype)


def seeded_integers_like(x: Tensor, seeds: Tensor, bits: int, grey: Tensor | None = None) -> Tensor:
    """Return uniform int32 in [0, 2**bits), of the shape and device of `x`.

    Args:
        x: (B, C, H, W); values, dtype and memory format do not matter.
        seeds: (B,) int64 on x's device, e.g. from `Draws.seeds`.
        bits: 1 to 15.
        grey: (B,) bool, for hashed fields: whether an image's channels are equal.
    """
    if x.device.type != "cpu" or _hash_everywhere:
        return hashed_integers(x.shape, seeds, bits, grey)
    size = math.prod(x.shape[1:])
    # SFC64, whose words NumPy keeps stable; takes half the time of torch's `random_`.
    generators = [np.random.SFC64(seed & 0xFFFFFFFFFFFFFFFF) for seed in seeds.tolist()]
    words = [generator.random_raw(-(-size // 4)) for generator in generators]
    halves = torch.from_numpy(words[0] if len(words) == 1 else np.stack(words)).view(torch.int16)
    picked = halves.bitwise_and_((1 << bits) - 1).view(len(x), -1)[:, :size]
    return picked.to(torch.int32).view(x.shape)


def quick_randn_like(x: Tensor, seeds: Tensor, grey: Tensor | None = None) -> Tensor:
    """Return noise as `seeded_randn_like`, from a table of 32,768 quantiles, for 8-bit images.

    Mean 0 and variance 1 are exact; the rarest 1 in 65,536 on either side (beyond 4.17 standard
    deviations) is missing. Takes 60 % of the time of torch's `normal_` on a CPU, and no logarithm
    or cosine elsewhere.

    Args:
        x: (B, C, H, W); values, dtype and memory format do not matter.
        seeds: (B,) int64 on x's device, e.g. from `Draws.seeds`.
        grey: As in `seeded_integers_like`.

    Returns:
        float32, of x's shape.
    """
    places = seeded_integers_like(x, seeds, _NORMAL_BITS, grey)
    return _normal_quantiles(x.device).index_select(0, places.view(-1)).view(places.shape)


@constant
def _normal_quantiles() -> Tensor:
    middles = (torch.arange(1 << _NORMAL_BITS, dtype=torch.float64) + 0.5) / (1 << _NORMAL_BITS)
    quantiles = torch.special.ndtri(middles)
    return (quantiles / quantiles.square().mean().sqrt()).float()


def hashed_integers(
    shape: torch.Size, seeds: Tensor, bits: int, grey: Tensor | None = None
) -> Tensor:
    """Return (B, C, H, W) int32 in [0, 2**bits) on the seeds' device; no synchronisation.

    The channels, at most four, are 16 bits each of the word of a pixel, which follows from its row
    and column, not from the size of the canvas.
    """
    _, C, H, W = shape
    row, column = (torch.arange(n, device=seeds.device) for n in (H, W))
    place = (row << 32).view(-1, 1) + column
    # An odd factor of its own, so that consecutive seeds are not neighbouring places.
    starts = (seeds * signed(MULTIPLIERS[1]) + signed(GAMMA)).view(-1, 1, 1, 1)
    words = mixed(starts + place * signed(GAMMA))
    shift = torch.arange(0, 64, 16, device=seeds.device)[:C].view(-1, 1, 1)
    if grey is not None:  # all channels are the first one
        shift = shift * grey.logical_not().view(-1, 1, 1, 1)
    return ((words >> shift) & ((1 << bits) - 1)).to(torch.int32)


def signed(word: int) -> int:
    """Return the int64 with the bits of a uint64; torch's int64 arithmetic wraps the same way."""
    return word - (1 << 64) if word >> 63 else word


def mixed(words: Tensor) -> Tensor:
    """Compute `draws.mix` on int64 tensors."""
    for shift, multiplier in zip(SHIFTS, (*MULTIPLIERS, 1), strict=True):
        # >> copies the sign of an int64: mask it for a logical shift.
        words = (words ^ ((words >> shift) & ((1 << (64 - shift)) - 1))) * signed(multiplier)
    return words


_LUMA = (0.2989, 0.587, 0.114)  # of torchvision, which the released code of Real-ESRGAN calls
_BITS = 11  # of the indices of Poisson quantiles
_POWERS = 9  # 1, 2, 4, ..., 256 levels


class GaussianNoise(Stage):
    """Add white noise, with one level per image.

    Args:
        sigma: Range of the standard deviation in 8-bit levels.
        grey: Probability that an image gets the same field in all channels.
        clip: Clamp the sum to [0, 1].

    Raises:
        ValueError: The range is reversed or negative.

    Source: Real-ESRGAN (Wang et al., 2021; arXiv 2107.10833), range of its released x4 options.
    """

    def __init__(
        self, sigma: tuple[float, float] = (1.0, 30.0), grey: UnitInterval = 0.0, clip: bool = True
    ) -> None:
        super().__init__()
        self.sigma = check_range(sigma, "sigma", low=0.0)
        self.grey, self.clip = grey, clip

    def draw(self, draws: Draws, shape: torch.Size) -> Params:
        """Draw `levels` in 8-bit levels, `field_seeds` and `grey`, (B,) each."""
        return {
            "levels": draws.uniform(*self.sigma),
            "field_seeds": draws.seeds(),
            "grey": draws.bernoulli(self.grey),
        }

    def forward(self, x: Tensor, params: Params) -> Tensor:
        """Add its field to each image, (B, C, H, W)."""
        field = _field(quick_randn_like, x, params)
        return _add_noise(x, field.mul_(per_image(params["levels"] / 255, x)), self.clip)

    def on_canvas(self, canvas: Canvas, params: Params) -> Canvas:
        """Add to the whole canvas: pixels outside an image have no meaning."""
        return canvas.with_pixels(self(canvas.pixels, params))


class PoissonNoise(Stage):
    """Replace each value by a random count of mean N times the value, divided by N.

    The variance is value / N. N is the number of different 8-bit values in the image, rounded up to
    a power of two: 256 for most photographs, fewer for flat ones, whose noise is stronger. The
    noise is found for values rounded to 8 bits, and added to the unrounded ones.

    Counts come from tables of 2048 quantiles for each of the 256 values. Compared with the exact
    distribution, the mean is off by at most 0.0004 standard deviations and the variance by at most
    0.2 % for N = 256 (0.003 and 3.4 % for N = 1), and the rarest 1 in 4096 on either side is
    missing. A table takes 15 ms for 16 images of 256 px on one core (7 ms if grey); torch.poisson
    takes 105 ms, and cannot be compiled for every memory format.

    Args:
        strength: Range of the factor of the noise.
        grey: Probability that an image gets the noise of its luma, 0.2989 R + 0.587 G + 0.114 B,
            in all channels; N then counts the values of the luma.
        clip: Clamp the sum to [0, 1].

    Raises:
        ValueError: The range is reversed or negative.

    Source: the released code of Real-ESRGAN (Wang et al., 2021; arXiv 2107.10833) and BasicSR,
    for N and the weights of the luma.
    """

    def __init__(
        self,
        strength: tuple[float, float] = (0.05, 3.0),
        grey: UnitInterval = 0.0,
        clip: bool = True,
    ) -> None:
        super().__init__()
        self.strength = check_range(strength, "strength", low=0.0)
        self.grey, self.clip = grey, clip

    def draw(self, draws: Draws, shape: torch.Size) -> Params:
        """Draw `strength`, `field_seeds` and `grey`, (B,) each."""
        return {
            "strength": draws.uniform(*self.strength),
            "field_seeds": draws.seeds(),
            "grey": draws.bernoulli(self.grey),
        }

    def forward(self, x: Tensor, params: Params) -> Tensor:
        """Add its noise to each image, (B, 3, H, W)."""
        if x.device.type != "cpu":
            return self.on_canvas(Canvas.of(x), params).pixels
        if len(x) > 1:
            return each_image(self, x, params)
        source = _luma(x) if params["grey"] else x
        values = source.detach().contiguous().mul(255.0).round_().clamp_(0.0, 255.0)
        # One integer per pixel, in place: value in the upper bits, random bits in the lower.
        places = values.int()
        power = _power_above(places)
        places.bitwise_left_shift_(_BITS)
        places.add_(seeded_integers_like(places, params["field_seeds"], _BITS))
        counts = _poisson_table(power).index_select(0, places.view(-1)).view(places.shape)
        strength = float(params["strength"])
        noise = values.mul_(-strength / 255.0).add_(counts, alpha=strength / (1 << power))
        return _add_noise(x, noise, self.clip)

    def on_canvas(self, canvas: Canvas, params: Params) -> Canvas:
        """Add noise to all images; N does not count values outside an image."""
        x = canvas.pixels
        source = torch.where(params["grey"].view(-1, 1, 1, 1), _luma(x), x)
        rounded = source.detach().mul(255.0).round().clamp(0.0, 255.0)
        values = rounded.long()
        # A 257th value for pixels outside; repeated writes into `seen` all write 1.
        counted = torch.where(canvas.inside(), values, 256).flatten(1)
        seen = torch.zeros(len(x), 257, dtype=torch.int64, device=x.device)
        count = seen.scatter(1, counted, 1)[:, :256].sum(1, keepdim=True)
        powers = 1 << torch.arange(_POWERS - 1, device=x.device)
        power = (count > powers).sum(1).view(-1, 1, 1, 1)
        field = _field(functools.partial(seeded_integers_like, bits=_BITS), x, params)
        places = ((power * 256 + values) << _BITS) + field
        counts = _poisson_tables(x.device)[places] / (1 << power)
        noise = (counts - rounded / 255.0) * per_image(params["strength"], x)
        return canvas.with_pixels(_add_noise(x, noise, self.clip))


def _field(make: Callable[..., Tensor], x: Tensor, params: Params) -> Tensor:
    """Return `make(x, seeds)` of x's shape, the same in all channels if `grey`."""
    seeds, grey = params["field_seeds"], params["grey"]
    if x.device.type != "cpu" or _hash_everywhere:
        return make(x, seeds, grey=grey)
    if len(x) == 1:
        return make(x[:, :1] if grey else x, seeds)
    # A generator's fields of another size differ in the last 16 values.
    return torch.where(per_image(grey, x) > 0, make(x[:, :1], seeds), make(x, seeds))


def _add_noise(x: Tensor, noise: Tensor, clip: bool) -> Tensor:
    """Add noise, in place of the noise where possible: new memory costs page faults."""
    noisy = noise.add_(x) if noise.shape == x.shape else x + noise
    return noisy.clamp_(0.0, 1.0) if clip else noisy


def _luma(x: Tensor) -> Tensor:
    """Return the luma of (B, 3, H, W), or the channel of (B, 1, H, W), as (B, 1, H, W)."""
    if x.shape[1] != 3:
        return x[:, :1]
    r, g, b = x.chunk(3, 1)
    return (r * _LUMA[0]).add(g, alpha=_LUMA[1]).add(b, alpha=_LUMA[2])


def _power_above(values: Tensor) -> int:
    """Return the least e with 2**e at least the number of different `values` in [0, 256)."""
    flat = values.view(-1)
    # More than 128 in a part already give e = 8: counting all takes many times as long, and sorting
    # them (`unique`) hundreds of times.
    count = _count_different(flat[:: max(1, len(flat) // 4096)])
    return _POWERS - 1 if count > 128 else (_count_different(flat) - 1).bit_length()


def _count_different(values: Tensor) -> int:
    return int(torch.bincount(values, minlength=256).count_nonzero())


@functools.lru_cache(maxsize=_POWERS)  # 1 MB each
def _poisson_table(power: int) -> Tensor:
    """Return (256 << _BITS,) int16, the counts at equally likely quantiles of each value."""
    N = 1 << power
    mean = np.arange(256)[:, None] / 255 * N
    count = np.arange(1, math.ceil(N + 10 * math.sqrt(N) + 12))
    # Recursion of probabilities: p(k) = p(k - 1) mean / k.
    sums = np.concatenate((np.exp(-mean), mean / count), axis=1).cumprod(axis=1).cumsum(axis=1)
    quantiles = (np.arange(1 << _BITS) + 0.5) / (1 << _BITS)
    counts = np.stack([np.searchsorted(row, quantiles) for row in sums])
    return torch.from_numpy(counts.astype(np.int16).reshape(-1))


@constant
def _poisson_tables() -> Tensor:
    """Return (9 * 256 << _BITS,) int16, the tables of all powers, 9 MB."""
    return torch.cat([_poisson_table(power) for power in range(_POWERS)])
