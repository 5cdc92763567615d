"""Noise: moments and distributions, and the fields of random numbers below it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats

from degradations.base import Canvas
from degradations.draws import Draws, to_device
from degradations.stages import noise
from degradations.stages.noise import (
    GaussianNoise,
    PoissonNoise,
    hashed_fields,
    hashed_integers,
    quick_randn_like,
    seeded_integers_like,
    seeded_randn_like,
)
from tests.make import uniform

SEEDS = torch.from_numpy(Draws(np.arange(16)).seeds())


def drawn(stage, seeds, size=(8, 8)):
    return stage.draw(Draws(np.asarray(seeds)), torch.Size((len(seeds), 3, *size)))


def noisy(stage, x, seeds):
    """The images with noise, and its parameters."""
    params = drawn(stage, seeds, x.shape[2:])
    return stage(x, to_device(params, len(x), torch.device("cpu"))), params


def are_counts(values, tolerance=1e-5):
    return bool((values - values.round()).abs().max() < tolerance)


# --------------------------------------------------------------------------------------- Gaussian


def test_gaussian_noise_has_the_drawn_deviation():
    x = torch.full((8, 3, 96, 96), 0.5)

    y, params = noisy(GaussianNoise((1.0, 30.0), clip=False), x, range(8))

    errors = ((y - x) * 255).flatten(1).double()
    n = errors.shape[1]
    assert len(set(params["levels"])) == 8  # one per image
    # Five standard errors of a sample's mean and of its deviation.
    np.testing.assert_array_less(errors.mean(1).abs(), 5 * params["levels"] / n**0.5)
    np.testing.assert_allclose(errors.std(1), params["levels"], rtol=5 / (2 * n) ** 0.5)


# ---------------------------------------------------------------------------------------- Poisson


@pytest.mark.parametrize("grey", [0.0, 1.0])
def test_poisson_variance_is_proportional_to_the_signal(grey):
    """Every 8-bit value in 1800 pixels: N is 256."""
    ramp = (torch.arange(256) / 255).expand(1, 3, 600, 256)

    y, _ = noisy(PoissonNoise((1.0, 1.0), grey, clip=False), ramp, [5])

    errors = (y - ramp).double().numpy()[0]
    columns = (errors[:1] if grey else errors).reshape(-1, 256)
    n = len(columns)
    signal = np.arange(1, 256) / 255
    deviation = np.sqrt(signal / 256)
    z = columns.mean(0)[1:] / deviation * n**0.5
    ratio = columns.var(0)[1:] / deviation**2
    error = np.sqrt((2 + 1 / (signal * 256)) / n)  # of a sample's variance, over the variance
    assert np.abs(columns[:, 0]).max() < 1e-7  # black stays
    assert np.abs(z).max() < 4.5
    assert np.abs((ratio - 1) / error).max() < 4.5
    assert abs((ratio - 1).mean()) < 4 * error.mean() / 255**0.5
    assert stats.kstest(z, "norm").pvalue > 1e-3


@pytest.mark.parametrize("value", [1, 20, 128, 255])
def test_poisson_counts_of_a_constant_image_have_the_exact_distribution(value):
    """One value: N is 1."""
    x = torch.full((1, 3, 64, 64), value / 255)

    y, _ = noisy(PoissonNoise((1.0, 1.0), clip=False), x, [value])

    counts = y.flatten()
    assert are_counts(counts)
    law = stats.poisson(value / 255)
    most = int(law.ppf(1 - 5 / len(counts)))  # the rarer ones in one cell
    observed = np.bincount(counts.round().int().clamp(max=most), minlength=most + 1)
    expected = np.append(law.pmf(np.arange(most)), law.sf(most - 1)) * len(counts)
    assert stats.chisquare(observed, expected).pvalue > 1e-3


@pytest.mark.parametrize("on_canvas", [False, True])
@pytest.mark.parametrize(
    ("different", "levels"), [(1, 1), (2, 2), (3, 4), (5, 8), (64, 64), (65, 128), (129, 256)]
)
def test_number_of_levels_is_a_power_of_two_from_the_different_values(different, levels, on_canvas):
    x = torch.full((1, 3, 80, 50), 100 / 255)
    others = [value / 255 for value in range(256) if value != 100][: different - 1]
    # At odd places, so that every second value is independent of them.
    x.view(-1)[3001 : 3001 + 2 * len(others) : 2] = torch.tensor(others)
    stage = PoissonNoise((1.0, 1.0), clip=False)
    params = to_device(drawn(stage, [different], (80, 50)), 1, torch.device("cpu"))

    with hashed_fields():
        y = stage.on_canvas(Canvas.of(x), params).pixels if on_canvas else stage(x, params)

    counts = (y * levels).double()
    assert are_counts(counts, 1e-3)
    assert levels == 1 or not are_counts(counts / 2, 0.4)


def test_poisson_counts_values_inside_the_image_only():
    """A flat image on a canvas of many values: N is 1."""
    pixels = uniform(2, 3, 48, 48)
    pixels[0, :, :20, :30] = 0.5
    canvas = Canvas(pixels, torch.tensor([[20, 30], [48, 48]]), (48, 48))
    stage = PoissonNoise((1.0, 1.0), clip=False)

    with hashed_fields():
        params = to_device(drawn(stage, [1, 2]), 2, torch.device("cpu"))
        y = stage.on_canvas(canvas, params).pixels

    counts = y[0, :, :20, :30] - 0.5 + 128 / 255  # 0.5 is rounded to 128 of 255
    assert are_counts(counts)
    assert len(counts.round().unique()) > 2


@pytest.mark.parametrize(("channel", "luma"), [(0, 76), (1, 150)])  # 0.2989 and 0.587 of 255
def test_grey_poisson_noise_is_that_of_the_luma(channel, luma):
    x = torch.zeros(1, 3, 64, 64)
    x[:, channel] = 1.0

    y, _ = noisy(PoissonNoise((1.0, 1.0), grey=1.0, clip=False), x, [3])

    counts = (y - x)[0, 0] + luma / 255
    assert are_counts(counts)
    assert abs(counts.mean() - luma / 255) < 5 * (luma / 255) ** 0.5 / 64


# ----------------------------------------------------------------------------------- both of them


@pytest.mark.parametrize("cls", [GaussianNoise, PoissonNoise])
def test_grey_noise_is_the_same_in_all_channels(cls):
    x = uniform(16, 1, 33, 35).expand(16, 3, 33, 35)

    y, params = noisy(cls(grey=0.5, clip=False), x, range(16))

    assert set(params["grey"]) == {True, False}
    for image, grey in zip(y, params["grey"], strict=True):
        same = torch.equal(image[0], image[1]) and torch.equal(image[0], image[2])
        assert same == grey


@pytest.mark.parametrize(
    ("cls", "strong"), [(GaussianNoise, (80.0, 80.0)), (PoissonNoise, (3.0, 3.0))]
)
def test_clip(cls, strong):
    x = uniform(2, 3, 40, 40).round() * 0.98 + 0.01

    free, _ = noisy(cls(strong, clip=False), x, [1, 2])
    clipped, _ = noisy(cls(strong), x, [1, 2])

    assert free.max() > 1
    assert torch.equal(clipped, free.clamp(0, 1))


# ----------------------------------------------------------------------- fields of random numbers


def by_generators(shape, seeds):
    return seeded_randn_like(torch.empty(shape), seeds)


def by_table(shape, seeds):
    return quick_randn_like(torch.empty(shape), seeds)


def by_table_on_a_gpu(shape, seeds):
    with hashed_fields():
        return quick_randn_like(torch.empty(shape), seeds)


@pytest.mark.parametrize("normal", [by_generators, by_table, by_table_on_a_gpu])
def test_a_field_is_standard_normal_and_independent(normal):
    field = normal((3, 3, 64, 64), SEEDS[:3])

    rows = field.reshape(9, -1)
    for row in rows:
        assert stats.kstest(row, "norm").pvalue > 1e-3
    # Between images and channels, then between pixels: four standard errors.
    assert np.abs(np.corrcoef(rows) - np.eye(9)).max() < 4 / 64
    for shift in (1, 2, 64):
        assert abs((rows * rows.roll(shift, 1)).mean()) < 4 / rows.numel() ** 0.5


@pytest.mark.parametrize("normal", [by_generators, by_table, by_table_on_a_gpu])
def test_all_bits_of_a_seed_count(normal):
    one, other = normal((2, 3, 8, 8), torch.tensor([5, 5 + 2**40]))

    assert not torch.equal(one, other)


def test_the_hash_is_frozen():
    """The same on every machine."""
    field = hashed_integers(torch.Size((1, 3, 1, 2)), torch.tensor([2**62]), 15)

    assert field.flatten().tolist() == [17073, 17366, 29008, 21738, 3879, 10891]


def test_a_hashed_field_does_not_depend_on_its_canvas():
    small = hashed_integers(torch.Size((2, 3, 7, 9)), SEEDS[:2], 11)
    large = hashed_integers(torch.Size((2, 3, 16, 24)), SEEDS[:2], 11)

    assert torch.equal(large[..., :7, :9], small)


@pytest.mark.parametrize("hashed", [False, True])
@pytest.mark.parametrize("bits", [1, 11, 15])
def test_integers_are_uniform_and_independent(hashed, bits):
    empty = torch.empty(4, 3, 33, 65)

    if hashed:
        field = hashed_integers(empty.shape, SEEDS[:4], bits)
    else:
        field = seeded_integers_like(empty, SEEDS[:4], bits)

    assert field.min() >= 0
    assert field.max() < 2**bits
    highest = field.flatten().numpy() >> max(bits - 4, 0)
    assert stats.chisquare(np.bincount(highest, minlength=2 ** min(bits, 4))).pvalue > 1e-3
    rows = field.reshape(12, -1).double().numpy()
    assert np.abs(np.corrcoef(rows) - np.eye(12)).max() < 4 / rows.shape[1] ** 0.5


def test_the_table_of_normal_numbers_is_exact_in_mean_and_variance():
    table = noise._normal_quantiles(torch.device("cpu")).double()

    assert table.mean().abs() < 1e-7
    assert abs(table.square().mean() - 1) < 1e-7
    assert stats.kstest(table, "norm").statistic < 1e-4
    assert 4.16 < table.max() < 4.18  # as its docstring says
