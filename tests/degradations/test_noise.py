"""GaussianNoise: its moments, its range, its independence."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats

from degradations.draws import Draws
from degradations.fields import seeded_randn_like
from degradations.noise import GaussianNoise
from degradations.params import to_device

CPU = torch.device("cpu")


def noisy(stage, x, seeds):
    params = stage.draw(Draws(seeds), x.shape)
    return stage(x, to_device(params, len(x), CPU)), params


def test_levels_cover_the_range_uniformly():
    params = GaussianNoise((5.0, 25.0)).draw(
        Draws(np.arange(10_000)), torch.Size((10_000, 3, 8, 8))
    )
    assert stats.kstest(params["levels"], stats.uniform(5, 20).cdf).pvalue > 1e-3


def test_mean_and_deviation_are_the_drawn_ones():
    x = torch.full((8, 3, 96, 96), 0.5)
    y, params = noisy(GaussianNoise((1.0, 30.0)), x, torch.arange(8))
    assert len(set(params["levels"])) == 8  # one an image
    noise = ((y - x) * 255).flatten(1).double()
    n = noise.shape[1]
    # Five standard errors of a sample's mean and of its deviation.
    np.testing.assert_array_less(noise.mean(1).abs(), 5 * params["levels"] / n**0.5)
    np.testing.assert_allclose(noise.std(1), params["levels"], rtol=5 / (2 * n) ** 0.5)


def test_levels_are_of_8_bits():
    y, params = noisy(GaussianNoise(), torch.zeros(2, 3, 8, 8), torch.arange(2))
    field = seeded_randn_like(y, torch.from_numpy(params["field_seeds"]))
    expected = field * torch.from_numpy(params["levels"]).float().view(2, 1, 1, 1) / 255
    torch.testing.assert_close(y, expected, rtol=1e-5, atol=0)


def test_channels_are_independent():
    y, _ = noisy(GaussianNoise(), torch.zeros(1, 3, 96, 96), torch.tensor([4]))
    correlation = np.corrcoef(y[0].reshape(3, -1)) - np.eye(3)
    assert np.abs(correlation).max() < 4 / 96


def test_no_noise_at_level_zero():
    x = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    y, _ = noisy(GaussianNoise((0.0, 0.0)), x, torch.arange(2))
    assert torch.equal(y, x)


@pytest.mark.parametrize("sigma", [(30.0, 1.0), (-1.0, 5.0)])
def test_refuses_a_range(sigma):
    with pytest.raises(ValueError, match="sigma is"):
        GaussianNoise(sigma)
