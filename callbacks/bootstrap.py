"""How far a mean over images may be from that over all images of their kind: the bootstrap.

Source: Efron, "Bootstrap methods: another look at the jackknife" (1979); the correction for few
images is the expanded percentile interval of Hesterberg, "What teachers should know about the
bootstrap" (2015): plain percentiles are too narrow, for 10 images by a sixth.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr, stdtrit

FEWEST = 5  # images: of fewer, resampling shows so few means that no interval of 95 % comes of it
_TOGETHER = 4_000_000  # drawn indices at a time: 32 MB


def mean_interval(
    values: NDArray[np.float64], draws: int = 10_000, seed: int = 0, level: float = 0.95
) -> tuple[float, float]:
    """An interval that holds the mean of what the values are a sample of.

    For paired comparisons, the values are the differences of two methods, image by image.

    Args:
        values: (N,) finite, N at least ``FEWEST``.
        draws: Number of resamples.
        seed: Of the resamples; the same for all metrics, so that they share them.
        level: How often such an interval holds the mean.

    Returns:
        Its lower and upper end.

    Raises:
        ValueError: The values are too few or not finite, or ``draws`` too few for ``level``.
    """
    n = len(values)
    if n < FEWEST or not np.isfinite(values).all():
        raise ValueError(f"got {n} values, some maybe not finite; expected {FEWEST} finite ones")
    if draws < 100:
        raise ValueError(f"draws is {draws}; expected 100 or more: change --draws")
    generator = np.random.default_rng(seed)
    rows = max(1, _TOGETHER // n)
    means = np.concatenate(
        [
            values[generator.integers(0, n, (min(rows, draws - done), n))].mean(1)
            for done in range(0, draws, rows)
        ]
    )
    tail = expanded_tail(n, level)
    low, high = np.quantile(means, [tail, 1 - tail])
    return float(low), float(high)


def expanded_tail(n: int, level: float) -> float:
    """The share of resampled means to leave out at each end.

    The means of resamples spread by sqrt((n - 1) / n) too little, and ``n`` values do not know
    their own deviation: Student's quantile in place of the normal one makes up for both.

    Args:
        n: Number of values, 2 or more.
        level: How often the interval is to hold the mean.
    """
    t = stdtrit(n - 1, 0.5 + level / 2)
    return float(ndtr(-math.sqrt(n / (n - 1)) * t))
