"""Intervals of means by resampling: exact small cases, coverage, symmetry."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from callbacks.results.compare import expanded_tail, mean_interval


def normal(n: int, seed: int = 0, mean: float = 0.0) -> np.ndarray:
    return np.random.default_rng(seed).normal(mean, 1.0, n)


def test_all_resamples_of_five() -> None:
    """The 5^5 resamples can be listed: drawing approaches their quantiles."""
    values = np.array([0.0, 1.0, 2.0, 4.0, 8.0])
    means = np.array([np.mean(chosen) for chosen in itertools.product(values, repeat=5)])
    tail = expanded_tail(5, 0.8)
    expected = np.quantile(means, [tail, 1 - tail])
    found = mean_interval(values, draws=200_000, level=0.8)
    assert found == pytest.approx(expected, abs=0.05)


@pytest.mark.parametrize(("n", "at_least", "at_most"), [(5, 0.90, 0.96), (20, 0.93, 0.97)])
def test_how_often_the_mean_is_in_it(n: int, at_least: float, at_most: float) -> None:
    hits = 0
    for seed in range(1000):
        low, high = mean_interval(normal(n, seed, 0.3), draws=1000, seed=seed)
        hits += low <= 0.3 <= high
    assert at_least < hits / 1000 < at_most


def test_the_width_is_that_of_student_for_many() -> None:
    values = normal(400)
    low, high = mean_interval(values, draws=40_000)
    expected = 2 * 1.966 * values.std(ddof=1) / 20
    assert high - low == pytest.approx(expected, rel=0.02)


@pytest.mark.parametrize(("n", "tail"), [(10, 0.00854), (20, 0.0159), (40, 0.0203)])
def test_tails_of_few_images(n: int, tail: float) -> None:
    """From Student's quantiles in any table: 2.2622, 2.0930, 2.0227."""
    assert expanded_tail(n, 0.95) == pytest.approx(tail, rel=0.01)
