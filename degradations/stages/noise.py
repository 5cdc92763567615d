"""Noise stages, and random fields that depend on the sample's seed alone.

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

from degradations.base import Canvas, DeviceStage, ImageFunction, Range, check_range
from degradations.device import constant
from degradations.draws import GAMMA, MULTIPLIERS, SHIFTS, Draws, Params, per_image
from degradations.images import Bytes, to_levels
from files.numbers import UnitInterval

_NORMAL_BITS = 15  # of the indices of normal quantiles
_LUMA = (0.2989, 0.587, 0.114)  # of torchvision, which the released code of Real-ESRGAN calls
_POISSON_BITS = 11  # of the indices of Poisson quantiles
_POWERS = 9  # 1, 2, 4, ..., 256 levels
_hash_everywhere = False


@contextmanager
def hashed_fields() -> Iterator[None]:
    """Hash the fields on the CPU as well, to compare it with a GPU, or the two executors."""
    global _hash_everywhere
    before = _hash_everywhere
    _hash_everywhere = True
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
        generator.manual_seed((seed ^ (seed >> 32)) & 0xFFFFFFFF)
        field.normal_(generator=generator)
    return fields.to(x.dtype)


def seeded_integers_like(
    x: Tensor,
    seeds: Tensor,
    bits: int,
    grey: Tensor | None = None,
) -> Tensor:
    """Return uniform int32 in [0, 2**bits), of the shape and device of `x`.

    Args:
        x: (B, C, H, W); values, dtype and memory format do not matter.
        seeds: (B,) int64 on x's device, e.g. from `Draws.seeds`.
        bits: 1 to 15.
        grey: (B,) bool, images that get one field for all channels. Only for hashed fields; for
            generators on a CPU, pass an ``x`` of one channel.
    """
    if x.device.type != "cpu" or _hash_everywhere:
        return hashed_integers(x.shape, seeds, bits, grey)
    size = math.prod(x.shape[1:])
    mask = np.int16((1 << bits) - 1)
    integers = np.empty((len(x), size), np.int32)
    for row, seed in zip(integers, seeds.tolist(), strict=True):
        # SFC64, whose words NumPy keeps stable; takes half the time of torch's `random_`.
        generator = np.random.SFC64(seed & 0xFFFFFFFFFFFFFFFF)
        words = generator.random_raw(-(-size // 4))
        parts = words.view(np.int16)  # four of each word
        np.bitwise_and(parts[:size], mask, out=row)
    return torch.from_numpy(integers).view(x.shape)


def quick_randn_like(
    x: Tensor,
    seeds: Tensor,
    grey: Tensor | None = None,
) -> Tensor:
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
    indices = seeded_integers_like(x, seeds, _NORMAL_BITS, grey)
    table = _normal_quantiles(x.device)
    quantiles = table.index_select(0, indices.view(-1))
    return quantiles.view(indices.shape)


@constant
def _normal_quantiles() -> Tensor:
    """Return (2**15,) float32, quantiles of the normal distribution, with variance 1."""
    count = 1 << _NORMAL_BITS
    index = torch.arange(count, dtype=torch.float64)
    probabilities = (index + 0.5) / count
    quantiles = torch.special.ndtri(probabilities)
    std = quantiles.square().mean().sqrt()
    return (quantiles / std).float()


def hashed_integers(
    shape: torch.Size,
    seeds: Tensor,
    bits: int,
    grey: Tensor | None = None,
) -> Tensor:
    """Return (B, C, H, W) int32 in [0, 2**bits) on the seeds' device; no synchronisation.

    The channels, at most four, are 16 bits each of the word of a pixel, which follows from its row
    and column, not from the size of the canvas.
    """
    _, C, H, W = shape
    row = torch.arange(H, device=seeds.device).view(-1, 1)
    column = torch.arange(W, device=seeds.device)
    position = (row << 32) + column
    # Seeds and positions have different odd factors: no field is a shifted copy of another seed's.
    starts = seeds * signed(MULTIPLIERS[1]) + signed(GAMMA)
    starts = starts.view(-1, 1, 1, 1)
    words = mixed(starts + position * signed(GAMMA))
    shifts = torch.arange(0, 64, 16, device=seeds.device)
    shift = shifts[:C].view(-1, 1, 1)
    if grey is not None:  # all channels are the first one
        is_coloured = grey.logical_not().view(-1, 1, 1, 1)
        shift = shift * is_coloured
    mask = (1 << bits) - 1
    return ((words >> shift) & mask).to(torch.int32)


def signed(word: int) -> int:
    """Return the int64 with the bits of a uint64; torch's int64 arithmetic wraps the same way."""
    return word - (1 << 64) if word >> 63 else word


def mixed(words: Tensor) -> Tensor:
    """Compute `draws.mix` on int64 tensors."""
    for shift, multiplier in zip(SHIFTS, (*MULTIPLIERS, 1), strict=True):
        # >> copies the sign of an int64: mask it for a logical shift.
        mask = (1 << (64 - shift)) - 1
        shifted = (words >> shift) & mask
        words = (words ^ shifted) * signed(multiplier)
    return words


class GaussianNoise(DeviceStage):
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
        self,
        sigma: Range = (1.0, 30.0),
        grey: UnitInterval = 0.0,
        clip: bool = True,
    ) -> None:
        super().__init__()
        self.sigma = check_range(sigma, "sigma", low=0.0)
        self.grey = grey
        self.clip = clip

    def draw(self, draws: Draws, shape: torch.Size) -> Params:
        """Draw `levels` in 8-bit levels, `field_seeds` and `grey`, (B,) each."""
        return {
            "levels": draws.uniform(*self.sigma),
            "field_seeds": draws.seeds(),
            "grey": draws.bernoulli(self.grey),
        }

    def cpu_functions(self, params: Params, x: Tensor) -> list[ImageFunction]:
        """Return for each image the function that adds its field."""
        functions: list[ImageFunction] = []
        sigmas = (params["levels"] / 255).tolist()
        greys = params["grey"].tolist()
        seeds = params["field_seeds"].split(1)
        for sigma, grey, seed in zip(sigmas, greys, seeds, strict=True):
            functions.append(functools.partial(self._noisy, sigma=sigma, grey=grey, seed=seed))
        return functions

    def _noisy(self, image: Tensor, sigma: float, grey: bool, seed: Tensor) -> Tensor:
        """Add the field of a seed to an image on the CPU."""
        like = image[:, :1] if grey else image  # one channel, which is added to all
        field = quick_randn_like(like, seed)
        return _add_noise(image, field.mul_(sigma), self.clip)

    def on_canvas(self, canvas: Canvas, params: Params) -> Canvas:
        """Add to the whole canvas: pixels outside an image have no meaning."""
        x = canvas.pixels
        field = quick_randn_like(x, params["field_seeds"], params["grey"])
        sigma = per_image(params["levels"] / 255, x)
        noisy = _add_noise(x, field.mul_(sigma), self.clip)
        return canvas.with_pixels(noisy)


class PoissonNoise(DeviceStage):
    """Replace each value by a Poisson count with mean N * value, divided by N.

    The variance is value / N. N is the number of different 8-bit values in the image, rounded up to
    a power of two: 256 for most photographs, fewer for flat ones, whose noise is stronger. The
    noise is drawn for values rounded to 8 bits, and added to the unrounded ones.

    Counts come from tables of 2048 quantiles for each of the 256 values. Compared with the exact
    distribution, the mean is off by at most 0.0004 standard deviations and the variance by at most
    0.2 % for N = 256 (0.003 and 3.4 % for N = 1), and the rarest 1 in 4096 on either side is
    missing. A table takes 13 ms for 16 images of 256 px on one core (7 ms if grey); torch.poisson
    takes 94 ms, and cannot be compiled for every memory format.

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
        strength: Range = (0.05, 3.0),
        grey: UnitInterval = 0.0,
        clip: bool = True,
    ) -> None:
        super().__init__()
        self.strength = check_range(strength, "strength", low=0.0)
        self.grey = grey
        self.clip = clip

    def draw(self, draws: Draws, shape: torch.Size) -> Params:
        """Draw `strength`, `field_seeds` and `grey`, (B,) each."""
        return {
            "strength": draws.uniform(*self.strength),
            "field_seeds": draws.seeds(),
            "grey": draws.bernoulli(self.grey),
        }

    def cpu_functions(self, params: Params, x: Tensor) -> list[ImageFunction]:
        """Return for each image the function that adds its noise."""
        functions: list[ImageFunction] = []
        strengths = params["strength"].tolist()
        greys = params["grey"].tolist()
        seeds = params["field_seeds"].split(1)
        for strength, grey, seed in zip(strengths, greys, seeds, strict=True):
            function = functools.partial(self._noisy, strength=strength, grey=grey, seed=seed)
            functions.append(function)
        return functions

    def _noisy(self, image: Tensor, strength: float, grey: bool, seed: Tensor) -> Tensor:
        """Add the noise of a seed to an image on the CPU."""
        source = _luma(image) if grey else image
        rounded = to_levels(source)
        power = _power_above(rounded)
        levels = torch.from_numpy(rounded)
        # One integer per pixel: the level in the upper bits, random bits in the lower.
        indices = seeded_integers_like(levels, seed, _POISSON_BITS)
        indices.add_(levels, alpha=1 << _POISSON_BITS)
        counts = _poisson_table(power).index_select(0, indices.view(-1))
        # strength (counts / N - levels / 255)
        noise = levels * (-strength / 255.0)
        noise.add_(counts.view(noise.shape), alpha=strength / (1 << power))
        return _add_noise(image, noise, self.clip)

    def on_canvas(self, canvas: Canvas, params: Params) -> Canvas:
        """Add noise to all images; N does not count values outside an image."""
        x = canvas.pixels
        is_grey = params["grey"].view(-1, 1, 1, 1)
        source = torch.where(is_grey, _luma(x), x)
        rounded = source.detach().mul(255.0).round()
        rounded = rounded.clamp(0.0, 255.0)
        levels = rounded.long()

        # Pixels outside get a 257th level; repeated writes into `occurs` all write 1.
        inside = torch.where(canvas.inside(), levels, 256)
        occurs = torch.zeros(len(x), 257, dtype=torch.int64, device=x.device)
        occurs = occurs.scatter(1, inside.flatten(1), 1)
        count = occurs[:, :256].sum(1, keepdim=True)
        powers_of_two = 1 << torch.arange(_POWERS - 1, device=x.device)
        power = (count > powers_of_two).sum(1)
        power = power.view(-1, 1, 1, 1)

        random_bits = seeded_integers_like(x, params["field_seeds"], _POISSON_BITS, params["grey"])
        indices = ((power * 256 + levels) << _POISSON_BITS) + random_bits
        counts = _poisson_tables(x.device)[indices]
        noisy = counts / (1 << power)
        strength = per_image(params["strength"], x)
        noise = (noisy - rounded / 255.0) * strength
        return canvas.with_pixels(_add_noise(x, noise, self.clip))


def _add_noise(x: Tensor, noise: Tensor, clip: bool) -> Tensor:
    """Add noise, in place of the noise where possible: new memory costs page faults."""
    noisy = noise.add_(x) if noise.shape == x.shape else x + noise
    return noisy.clamp_(0.0, 1.0) if clip else noisy


def _luma(x: Tensor) -> Tensor:
    """Return the luma of (B, 3, H, W), or the channel of (B, 1, H, W), as (B, 1, H, W)."""
    if x.shape[1] != 3:
        return x[:, :1]
    red, green, blue = x.chunk(3, 1)
    red_weight, green_weight, blue_weight = _LUMA
    luma = red * red_weight
    luma = luma.add(green, alpha=green_weight)
    return luma.add(blue, alpha=blue_weight)


def _power_above(levels: Bytes) -> int:
    """Return the least e with 2**e at least the number of different levels."""
    flat = levels.reshape(-1)
    # More than 128 levels in a part already give e = 8: counting all pixels takes many times as
    # long, and sorting them (`unique`) hundreds of times.
    step = max(1, len(flat) // 4096)
    count = _count_different(flat[::step])
    if step > 1 and count <= 128:
        count = _count_different(flat)
    return (count - 1).bit_length()


def _count_different(levels: Bytes) -> int:
    """Return how many different levels there are."""
    histogram = np.bincount(levels, minlength=256)
    return int(np.count_nonzero(histogram))


@functools.lru_cache(maxsize=_POWERS)  # 1 MB each
def _poisson_table(power: int) -> Tensor:
    """Return (256 << _POISSON_BITS,) int16, counts at equally likely quantiles of each value."""
    N = 1 << power
    mean = np.arange(256)[:, None] / 255 * N
    highest = N + 10 * math.sqrt(N) + 12
    count = np.arange(1, math.ceil(highest))
    # Recursion of probabilities: p(k) = p(k - 1) mean / k.
    p_zero = np.exp(-mean)
    factors = np.concatenate((p_zero, mean / count), axis=1)
    cumulative = factors.cumprod(axis=1).cumsum(axis=1)
    quantiles = (np.arange(1 << _POISSON_BITS) + 0.5) / (1 << _POISSON_BITS)
    counts = [np.searchsorted(row, quantiles) for row in cumulative]
    table = np.concatenate(counts).astype(np.int16)
    return torch.from_numpy(table)


@constant
def _poisson_tables() -> Tensor:
    """Return (9 * 256 << _POISSON_BITS,) int16, the tables of all powers, 9 MB."""
    tables = [_poisson_table(power) for power in range(_POWERS)]
    return torch.cat(tables)
