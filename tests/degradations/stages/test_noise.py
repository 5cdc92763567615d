"""Noise: moments and distributions, ranges, independence, both executors."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats

from degradations.base import Canvas
from degradations.draws import Draws, to_device
from degradations.stages.noise import (
    GaussianNoise,
    PoissonNoise,
    hashed_fields,
)

CPU = torch.device("cpu")
ADDED = [GaussianNoise, PoissonNoise]


def drawn(stage, seeds, shape=(3, 8, 8)):
    seeds = np.asarray(seeds)
    return stage.draw(Draws(seeds), torch.Size((len(seeds), *shape)))


def noisy(stage, x, seeds):
    params = drawn(stage, seeds, x.shape[1:])
    return stage(x, to_device(params, len(x), CPU)), params


def photo(*shape):
    return torch.rand(shape, generator=torch.Generator().manual_seed(0))


# Gaussian


def test_mean_and_deviation_are_the_drawn_ones():
    x = torch.full((8, 3, 96, 96), 0.5)
    y, params = noisy(GaussianNoise((1.0, 30.0), clip=False), x, torch.arange(8))
    assert len(set(params["levels"])) == 8  # one per image
    noise = ((y - x) * 255).flatten(1).double()
    n = noise.shape[1]
    # Five standard errors of a sample's mean and of its deviation.
    np.testing.assert_array_less(noise.mean(1).abs(), 5 * params["levels"] / n**0.5)
    np.testing.assert_allclose(noise.std(1), params["levels"], rtol=5 / (2 * n) ** 0.5)


# Poisson


@pytest.mark.parametrize("grey", [0.0, 1.0])
def test_poisson_variance_is_proportional_to_the_signal(grey):
    """Every 8-bit value in 1800 pixels: N is 256."""
    ramp = (torch.arange(256) / 255).expand(1, 3, 600, 256)
    y, _ = noisy(PoissonNoise((1.0, 1.0), grey, clip=False), ramp, [5])
    noise = (y - ramp).double().numpy()[0]
    if grey:
        assert np.array_equal(noise[0], noise[1])
        assert np.array_equal(noise[0], noise[2])
        noise = noise[:1]
        # The luma of the weights of the code is 0.9999 of the value, and is rounded.
    columns = noise.reshape(-1, 256)
    signal, n = np.arange(1, 256) / 255, len(columns)
    assert np.abs(columns[:, 0]).max() < 1e-7  # black stays
    deviation = np.sqrt(signal / 256)
    z = columns.mean(0)[1:] / deviation * n**0.5
    ratio = columns.var(0)[1:] / deviation**2
    error = np.sqrt((2 + 1 / (signal * 256)) / n)  # of a sample's variance, over the variance
    assert np.abs(z).max() < 4.5
    assert np.abs((ratio - 1) / error).max() < 4.5
    assert abs(z.mean()) < 4 / 255**0.5
    assert abs((ratio - 1).mean()) < 4 * error.mean() / 255**0.5
    assert stats.kstest(z, "norm").pvalue > 1e-3


@pytest.mark.parametrize("value", [1, 20, 128, 255])
def test_poisson_counts_of_a_constant_image_have_the_exact_distribution(value):
    """One value: N is 1."""
    x = torch.full((1, 3, 64, 64), value / 255)
    y, _ = noisy(PoissonNoise((1.0, 1.0), clip=False), x, [value])
    counts = y.flatten().numpy()
    assert np.abs(counts - counts.round()).max() < 1e-6
    law = stats.poisson(value / 255)
    most = int(law.ppf(1 - 5 / counts.size))  # the rarer ones in one cell
    observed = np.bincount(np.minimum(counts.round().astype(int), most), minlength=most + 1)
    expected = np.append(law.pmf(np.arange(most)), law.sf(most - 1)) * counts.size
    assert stats.chisquare(observed, expected).pvalue > 1e-3


@pytest.mark.parametrize("on_canvas", [False, True])
@pytest.mark.parametrize(
    ("different", "N"),
    [(1, 1), (2, 2), (3, 4), (5, 8), (64, 64), (65, 128), (128, 128), (129, 256)],
)
def test_number_of_levels_is_a_power_of_two_above_the_different_values(different, N, on_canvas):
    x = torch.full((1, 3, 80, 50), 100 / 255)
    others = torch.tensor([value for value in range(256) if value != 100][: different - 1])
    # At odd places, so that every second value is independent of them.
    x.view(-1)[3001 : 3001 + 2 * len(others) : 2] = others / 255
    stage = PoissonNoise((1.0, 1.0), clip=False)
    params = to_device(drawn(stage, [different], x.shape[1:]), 1, CPU)
    with hashed_fields():
        y = stage.on_canvas(Canvas.of(x), params).pixels if on_canvas else stage(x, params)
    counts = (y * N).double()
    assert (counts - counts.round()).abs().max() < 1e-3
    if N > 1:  # and of no smaller one
        halved = counts / 2
        assert (halved - halved.round()).abs().max() > 0.4


def test_poisson_counts_values_inside_the_image_only():
    """A flat image on a canvas of many values: N is 1."""
    pixels = photo(2, 3, 48, 48)
    pixels[0, :, :20, :30] = 0.5
    sizes = torch.tensor([[20, 30], [48, 48]])
    stage = PoissonNoise((1.0, 1.0), clip=False)
    params = to_device(drawn(stage, [1, 2]), 2, CPU)
    with hashed_fields():
        y = stage.on_canvas(Canvas(pixels, sizes, (48, 48)), params).pixels
    counts = y[0, :, :20, :30] - 0.5 + 128 / 255  # 0.5 is rounded to 128 of 255
    assert (counts - counts.round()).abs().max() < 1e-5
    assert len(counts.round().unique()) > 2
    assert y.isfinite().all()


def test_poisson_noise_of_the_luma():
    """Red alone has the luma 0.2989, which is 76 of 255."""
    x = torch.zeros(1, 3, 64, 64)
    x[:, 0] = 1.0
    y, _ = noisy(PoissonNoise((1.0, 1.0), grey=1.0, clip=False), x, [3])
    noise = (y - x)[0].numpy()
    np.testing.assert_allclose(noise[0], noise[1], atol=1e-6)
    counts = noise + 76 / 255
    assert np.abs(counts - counts.round()).max() < 1e-5
    assert abs(counts.mean() - 76 / 255) < 5 * (76 / 255) ** 0.5 / 64
    green = x.roll(1, 1)
    y, _ = noisy(PoissonNoise((1.0, 1.0), grey=1.0, clip=False), green, [3])
    counts = (y - green)[0].numpy() + 150 / 255  # 0.587
    assert np.abs(counts - counts.round()).max() < 1e-5


# Shared behaviour of stages that add noise


@pytest.mark.parametrize("noise", ADDED)
def test_grey_noise_is_the_same_in_all_channels(noise):
    x = photo(16, 1, 33, 35).expand(16, 3, 33, 35)
    y, params = noisy(noise(grey=0.5, clip=False), x, np.arange(16))
    for image, original, grey in zip(y, x, params["grey"], strict=True):
        same = torch.equal(image[0], image[1]) and torch.equal(image[0], image[2])
        assert same == grey
        assert not torch.equal(image, original)
    assert set(params["grey"]) == {True, False}


@pytest.mark.parametrize("noise", ADDED)
@pytest.mark.parametrize("size", [(5, 7), (3, 3), (1, 1)])
def test_grey_noise_does_not_depend_on_the_batch_at_odd_sizes(noise, size):
    x = photo(12, 3, *size)
    whole, _ = noisy(noise(grey=0.5), x, np.arange(12))
    for k in range(12):
        alone, _ = noisy(noise(grey=0.5), x[k : k + 1], [k])
        torch.testing.assert_close(alone[0], whole[k], rtol=0, atol=1e-6)


@pytest.mark.parametrize("noise", ADDED)
def test_clip(noise):
    range_name = "strength" if noise is PoissonNoise else "sigma"
    strong = {range_name: (3.0, 3.0) if noise is PoissonNoise else (80.0, 80.0)}
    x = photo(2, 3, 40, 40).round() * 0.98 + 0.01
    free, _ = noisy(noise(**strong, clip=False), x, [1, 2])
    clipped, _ = noisy(noise(**strong), x, [1, 2])
    assert free.max() > 1
    assert noise is PoissonNoise or free.min() < 0
    assert torch.equal(clipped, free.clamp(0, 1))
