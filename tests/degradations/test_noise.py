"""Noise: moments and distributions, and the fields of random numbers below it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats

from degradations.base import Canvas
from degradations.draws import Draws
from degradations.stages.noise import (
    GaussianNoise,
    PoissonNoise,
    hashed_fields,
    hashed_integers,
    quick_randn_like,
    seeded_integers_like,
    seeded_randn_like,
)
from tests.make import assert_near, drawn, uniform

SEEDS = torch.from_numpy(Draws(np.arange(16)).seeds())


def added(stage, images):
    """The noise that a stage adds to images, in float64."""
    count, _, height, width = images.shape
    return (stage(images, drawn(stage, count, (height, width))) - images).double()


def are_counts(values, tolerance=1e-5):
    """Whether all are whole numbers."""
    return bool((values - values.round()).abs().max() < tolerance)


# --------------------------------------------------------------------------------------- Gaussian


def test_gaussian_noise_has_the_drawn_deviation():
    stage = GaussianNoise(sigma=(1.0, 30.0), clip=False)
    grey = torch.full((8, 3, 96, 96), 0.5)

    noise = added(stage, grey).flatten(1) * 255

    levels = drawn(stage, 8)["levels"]
    n = noise.shape[1]
    assert len(set(levels.tolist())) == 8
    # Five standard errors of a sample's mean and of its deviation.
    np.testing.assert_array_less(noise.mean(1).abs(), 5 * levels / n**0.5)
    np.testing.assert_allclose(noise.std(1), levels, rtol=5 / (2 * n) ** 0.5)


# ---------------------------------------------------------------------------------------- Poisson

FULL = PoissonNoise(strength=(1.0, 1.0), clip=False)  # not scaled: image and noise are counts / N


@pytest.mark.parametrize("value", [1, 20, 255])
def test_poisson_counts_of_a_constant_image_have_the_exact_distribution(value):
    """They are Poisson(value N) / N, with N a power of two from the number of values: here 1."""
    image = torch.full((1, 3, 64, 64), value / 255)

    counts = added(FULL, image).flatten() + value / 255

    law = stats.poisson(value / 255)
    most = int(law.ppf(1 - 5 / len(counts)))  # the rarer ones in one cell
    observed = np.bincount(counts.round().int().clamp(max=most), minlength=most + 1)
    shares = np.append(law.pmf(np.arange(most)), law.sf(most - 1))
    assert are_counts(counts)
    assert stats.chisquare(observed, shares * len(counts)).pvalue > 1e-3


@pytest.mark.parametrize("on_canvas", [False, True])
@pytest.mark.parametrize(("distinct", "levels"), [(1, 1), (3, 4), (64, 64), (65, 128), (129, 256)])
def test_poisson_levels_are_a_power_of_two_from_the_distinct_values(distinct, levels, on_canvas):
    """The least power that is not below their number; noise has a variance of value / levels.

    So noisy images are whole numbers of these levels, and not all of twice as coarse ones.
    """
    image = torch.zeros(1, 3, 80, 50)
    # Of these 12,000 values the stage counts every second one first: those at even places, which
    # are all alike here. So it must go on and count all.
    image.view(-1)[1 : 2 * distinct : 2] = torch.arange(distinct) / 255
    image += 100 / 255
    params = drawn(FULL, 1, (80, 50))

    with hashed_fields():
        if on_canvas:
            result = FULL.on_canvas(Canvas.of(image), params).pixels
        else:
            result = FULL(image, params)

    assert are_counts((result * levels).double(), tolerance=1e-3)
    if levels > 1:
        assert not are_counts((result * levels / 2).double(), tolerance=0.4)


def test_poisson_counts_values_inside_the_image_only():
    """A flat image on a canvas of many values has one level, N = 1: counts are whole."""
    pixels = uniform(2, 3, 48, 48)
    pixels[0, :, :20, :30] = 128 / 255
    canvas = Canvas(pixels, torch.tensor([[20, 30], [48, 48]]), (48, 48))

    with hashed_fields():
        result = FULL.on_canvas(canvas, drawn(FULL, 2, (48, 48))).pixels

    counts = result[0, :, :20, :30]
    assert are_counts(counts)
    assert len(counts.round().unique()) > 2


@pytest.mark.parametrize(("channel", "luma"), [(0, 76), (1, 150)])  # 0.2989 and 0.587 of 255
def test_grey_poisson_noise_is_that_of_the_luma(channel, luma):
    image = torch.zeros(1, 3, 64, 64)
    image[:, channel] = 1.0

    noise = added(PoissonNoise(strength=(1.0, 1.0), grey=1.0, clip=False), image)

    counts = noise[0, 0] + luma / 255
    assert are_counts(counts)
    # One level: mean and variance are the luma. Five standard errors of 64x64 pixels.
    assert abs(counts.mean() - luma / 255) < 5 * (luma / 255) ** 0.5 / 64


def test_poisson_noise_is_multiplied_by_its_strength():
    images = uniform(1, 3, 40, 40)
    threefold = PoissonNoise(strength=(3.0, 3.0), clip=False)

    assert_near(added(threefold, images), 3 * added(FULL, images), within=1e-5)


# ----------------------------------------------------------------------------------- both of them


@pytest.mark.parametrize("cls", [GaussianNoise, PoissonNoise])
def test_grey_noise_is_the_same_in_all_channels(cls):
    stage = cls(grey=0.5, clip=False)
    images = uniform(16, 1, 33, 35).expand(16, 3, 33, 35)

    noise = added(stage, images)

    is_grey = drawn(stage, 16)["grey"].tolist()
    assert set(is_grey) == {True, False}
    for image, grey in zip(noise, is_grey, strict=True):
        assert torch.equal(image[0], image[1]) == grey
        assert torch.equal(image[0], image[2]) == grey


@pytest.mark.parametrize(("cls", "strength"), [(GaussianNoise, 80.0), (PoissonNoise, 3.0)])
def test_noisy_images_are_clamped_unless_clip_is_false(cls, strength):
    images = uniform(2, 3, 40, 40).round() * 0.98 + 0.01
    with_clip = cls((strength, strength))
    without = cls((strength, strength), clip=False)
    params = drawn(without, 2, (40, 40))

    clipped = with_clip(images, params)

    unclipped = without(images, params)
    assert unclipped.min() < 0
    assert unclipped.max() > 1
    assert torch.equal(clipped, unclipped.clamp(0, 1))


# ----------------------------------------------------------------------- fields of random numbers


def by_table_on_a_gpu(x, seeds):
    with hashed_fields():
        return quick_randn_like(x, seeds)


NORMAL = [seeded_randn_like, quick_randn_like, by_table_on_a_gpu]


@pytest.mark.parametrize("normal", NORMAL)
def test_a_field_is_standard_normal_and_independent(normal):
    field = normal(torch.empty(3, 3, 64, 64), SEEDS[:3])

    rows = field.reshape(9, -1)
    for row in rows:
        assert stats.kstest(row, "norm").pvalue > 1e-3
    # Between images and channels, then between pixels: four standard errors.
    assert (torch.corrcoef(rows) - torch.eye(9)).abs().max() < 4 / 64
    for shift in (1, 2, 64):
        assert abs((rows * rows.roll(shift, 1)).mean()) < 4 / rows.numel() ** 0.5


@pytest.mark.parametrize("normal", NORMAL)
def test_all_bits_of_a_seed_count(normal):
    seeds = torch.tensor([5, 5 + 2**40])  # a generator of torch reads the low 32 bits alone

    one, other = normal(torch.empty(2, 3, 8, 8), seeds)

    assert not torch.equal(one, other)


def test_the_hash_is_frozen():
    """The numbers are its own: noise of a GPU stays as it is, and is the same on every machine."""
    field = hashed_integers(torch.Size((1, 3, 1, 2)), torch.tensor([2**62]), bits=15)

    assert field.flatten().tolist() == [17073, 17366, 29008, 21738, 3879, 10891]


def by_hash(x, seeds, bits):
    return hashed_integers(x.shape, seeds, bits)


@pytest.mark.parametrize("integers", [seeded_integers_like, by_hash])
@pytest.mark.parametrize("bits", [1, 11, 15])
def test_integers_are_uniform_and_independent(integers, bits):
    field = integers(torch.empty(4, 3, 33, 65), SEEDS[:4], bits)

    assert field.min() >= 0
    assert field.max() < 2**bits
    highest = field.flatten().numpy() >> max(bits - 4, 0)  # four bits, 16 cells
    assert stats.chisquare(np.bincount(highest)).pvalue > 1e-3
    rows = field.reshape(12, -1).double()
    assert (torch.corrcoef(rows) - torch.eye(12)).abs().max() < 4 / rows.shape[1] ** 0.5
