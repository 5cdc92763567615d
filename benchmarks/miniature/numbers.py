"""What the rows of a miniature measured, and what may be said of two of them."""

from __future__ import annotations

import re
import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from benchmarks.miniature import swd as miniature_swd
from benchmarks.miniature.callbacks import HR, OUTPUTS
from benchmarks.miniature.spec import BICUBIC
from benchmarks.miniature.swd import Numbers
from callbacks.results.compare import FEWEST, expanded_tail, mean_interval
from callbacks.results.files import ImageNumbers, Result, load_images, load_results, storable

SWD = "swd"
SPREAD = "psnr_spread"  # over images, of the gain over bicubic of the same LR: its variance
PER_IMAGE = ("psnr", "ssim", "niqe", "lpips", "lattice")
HIGHER_IS_BETTER = ("psnr", "ssim")
ALL = "all"  # the crops of all sets together
DRAWS, SWD_DRAWS, SEED = 10_000, 2_000, 0
HOLDS, FAILS, OPEN = "holds", "does not hold", "not decided"
UNTESTED = "not tested in the paper's sense"


def shown(apart: Mapping[str, Any]) -> str:
    """The verdict that a page shows of a stored judgement.

    The paper's robustness is the variance of the scores themselves. The variance of PSNR-Y above
    bicubic's of the same image is another number, from which nothing follows about it.

    Args:
        apart: As in the JSON files.
    """
    return UNTESTED if apart["metric"] == SPREAD else str(apart["verdict"])


class Difference(NamedTuple):
    """How two rows differ.

    metric: Name of the metric.
    scale: The factor; None for generators.
    n: Images that both have.
    value: First minus second.
    interval: Of 95 %, from resampling images; None of too few.
    """

    metric: str
    scale: float | None
    n: int
    value: float
    interval: tuple[float, float] | None

    @property
    def verdict(self) -> str:
        """Whether the first may be called better."""
        if self.interval is None or self.interval[0] <= 0 <= self.interval[1]:
            return OPEN
        better = (self.interval[0] > 0) == (self.metric in HIGHER_IS_BETTER)
        return HOLDS if better else FAILS

    def stored(self) -> dict[str, Any]:
        """Return what JSON holds."""
        return {
            "metric": self.metric,
            **({} if self.scale is None else {"scale": self.scale}),
            **{"n": self.n, "difference": short(self.value)},
            "interval": self.interval and [short(end) for end in self.interval],
            "verdict": self.verdict,
        }


def short(value: float) -> float | str:
    """Return six digits of a number, as JSON holds it."""
    return storable(float(f"{value:.6g}"))


def set_of(dataset: str) -> str:
    """The set that a source SET_xSCALE belongs to, such as ``set14_x2_7``."""
    return re.sub(r"_x\d[\d._]*$", "", dataset)


class Measured:
    """The numbers of one row.

    Args:
        run: Its run's folder.
        seed: The first of those that were asked for; of what draws no noise, the only one.
    """

    def __init__(self, run: Path, seed: int = 0) -> None:
        self.run, self.seed = run, seed
        # Without a metric's own control, which is a row here.
        self.results: list[Result] = [
            result
            for result in load_results(run / "results.json")["results"]
            if result["checkpoint"] != BICUBIC
        ]
        self.images: list[ImageNumbers] = [
            numbers for numbers in load_images(run) if numbers["checkpoint"] != BICUBIC
        ]
        self._swd: dict[float, tuple[list[float], Numbers]] = {}

    @property
    def scales(self) -> list[float]:
        """Those that were measured, rising."""
        return sorted({r["scale"] for r in self.results})

    def by_seed(self, metric: str, scale: float) -> list[dict[str, float]]:
        """The number of each image of all sets together, by key; an entry a seed."""
        seeds: dict[int | None, dict[str, float]] = {}
        for numbers in self.images:
            if (numbers["metric"], numbers["scale"]) == (metric, scale):
                seeds.setdefault(numbers["seed"], {}).update(numbers["values"])
        return [dict(sorted(values.items())) for values in seeds.values()]

    def keys(self, scale: float) -> list[str]:
        """The images of all sets together."""
        found = self.by_seed(PER_IMAGE[0], scale)
        return list(found[0]) if found else []

    def means(self, metric: str, scale: float) -> list[float]:
        """The metric on all sets together; a number a seed."""
        if metric == SWD:
            return self._of_sets(scale)[0] if self.keys(scale) else []
        return [statistics.fmean(values.values()) for values in self.by_seed(metric, scale)]

    def swd_of_resamples(self, scale: float) -> Numbers:
        """(draws,) the mean over the seeds; the same resamples for rows of the same images."""
        return self._of_sets(scale)[1]

    def _of_sets(self, scale: float) -> tuple[list[float], Numbers]:
        if scale not in self._swd:
            keys = self.keys(scale)
            weights = miniature_swd.counts(len(keys), SWD_DRAWS, SEED)
            hr = miniature_swd.features(self.run / OUTPUTS / HR, keys)
            means, resamples = [], []
            for folder in self._folders(scale):
                sr = miniature_swd.features(self.run / OUTPUTS / folder, keys)
                means.append(miniature_swd.distance(sr, hr))
                resamples.append(miniature_swd.resampled(sr, hr, weights))
            self._swd[scale] = means, np.mean(resamples, axis=0)
        return self._swd[scale]

    def _folders(self, scale: float) -> list[str]:
        seeds = {numbers["seed"] for numbers in self.images if numbers["scale"] == scale}
        return [str(self.seed if seed is None else seed) for seed in seeds]


def difference(
    a: Measured, b: Measured, metric: str, scale: float, bicubic: Measured | None = None
) -> Difference | None:
    """How the first row differs from the second; None where one of them was not measured.

    Args:
        a: The first row.
        b: The second row.
        metric: One that images have numbers of, SWD, or SPREAD.
        scale: The factor.
        bicubic: That row, for SPREAD.
    """
    keys = a.keys(scale)
    if not keys or keys != b.keys(scale):
        return None
    if metric == SPREAD:
        if bicubic is None or bicubic.keys(scale) != keys:
            return None
        return _spread(a, b, scale, bicubic)
    means = [row.means(metric, scale) for row in (a, b)]
    if not all(means):
        return None
    values = [statistics.fmean(of_row) for of_row in means]
    interval = None
    if len(keys) >= FEWEST:
        of = _interval_of_swd if metric == SWD else _interval_of_mean
        interval = of(a, b, metric, scale)
    return Difference(metric, scale, len(keys), values[0] - values[1], interval)


def _interval_of_mean(a: Measured, b: Measured, metric: str, scale: float) -> tuple[float, float]:
    first, second = (_over_seeds(row, metric, scale) for row in (a, b))
    return mean_interval(first - second, DRAWS, SEED)


def _over_seeds(row: Measured, metric: str, scale: float) -> Numbers:
    return np.mean([list(values.values()) for values in row.by_seed(metric, scale)], axis=0)


def _spread(a: Measured, b: Measured, scale: float, bicubic: Measured) -> Difference:
    base = _over_seeds(bicubic, "psnr", scale)
    ours, theirs = (_over_seeds(row, "psnr", scale) - base for row in (a, b))
    value, interval = float(ours.var(ddof=1) - theirs.var(ddof=1)), None
    if len(base) >= FEWEST:
        drawn = np.random.default_rng(SEED).integers(len(base), size=(DRAWS, len(base)))
        interval = middle(ours[drawn].var(1, ddof=1) - theirs[drawn].var(1, ddof=1), len(base))
    return Difference(SPREAD, scale, len(base), value, interval)


def _interval_of_swd(a: Measured, b: Measured, metric: str, scale: float) -> tuple[float, float]:
    apart = a.swd_of_resamples(scale) - b.swd_of_resamples(scale)
    return middle(apart, len(a.keys(scale)))


def middle(resampled: Numbers, count: int) -> tuple[float, float]:
    """Return the middle 95 % of resamples of so many images."""
    tail = expanded_tail(count, 0.95)
    low, high = np.quantile(resampled, [tail, 1 - tail])
    return float(low), float(high)
