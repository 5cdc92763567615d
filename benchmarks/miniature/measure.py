"""Numbers of the miniature's rows, and whether a claim on two of them holds.

Means over images come from the metrics of ``main.py test``. Numbers of sets (SWD, KID-thumb,
repetition) are computed here, from the outputs that each row has kept. Intervals of both come from
random halves of the images: over halves, drawn without repetition, a statistic has the variance
that it has over sets of all images, and no image counts twice, which would bias a distance of sets.
"""

from __future__ import annotations

import statistics
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from benchmarks.miniature.callbacks import INPUTS, OUTPUTS
from callbacks.metrics.consistency import Repetition
from callbacks.metrics.fid import KIDThumb
from callbacks.metrics.sets import SetMetric, read_image
from callbacks.metrics.swd import SWD
from callbacks.results.files import load_images, load_results, storable

BASE = 16  # side of the images that Self-Cascade's base makes
HIGHER_IS_BETTER = ("psnr", "ssim", "lr_psnr")
COST = ("calls", "seconds")
HALVES = 50
FEWEST = 10  # images: fewer are too few to halve
NORMAL = 1.96  # deviations on each side of an interval of 95 %
HOLDS, FAILS, OPEN = "holds", "does not hold", "not decided"
Numbers = NDArray[np.float64]


def set_metrics() -> list[SetMetric]:
    """Return the metrics of sets; fewer patches and directions than by default, for the halves."""
    return [SWD(levels=2, patches=32, directions=64), KIDThumb(), Repetition(BASE)]


class Measured:
    """The numbers of one row.

    Args:
        run: Its run's folder.
    """

    def __init__(self, run: Path) -> None:
        self.run = run
        self.cost: dict[str, float] = {
            result["metric"]: result["value"]
            for result in load_results(run / "results.json")["results"]
            if result["metric"] in COST
        }
        outputs = run / OUTPUTS
        self.seeds = sorted((p.name for p in outputs.iterdir() if p.name not in INPUTS), key=int)
        files = sorted((outputs / self.seeds[0]).rglob("*.png"))
        self.keys = [path.relative_to(outputs / self.seeds[0]).as_posix() for path in files]

    @cached_property
    def per_image(self) -> dict[str, list[Numbers]]:
        """The numbers of each image, by metric; an array a seed."""
        found: dict[str, list[Numbers]] = {}
        for numbers in load_images(self.run):
            if numbers["metric"] not in COST:
                values = [value for _, value in sorted(numbers["values"].items())]
                found.setdefault(numbers["metric"], []).append(np.array(values))
        return found

    @cached_property
    def features(self) -> list[tuple[SetMetric, list[Tensor], Tensor]]:
        """Each metric of sets, with its features of the outputs of each seed and of HR."""
        found = []
        for metric in set_metrics():
            sr = [self._features(metric, seed) for seed in self.seeds]
            found.append((metric, sr, self._features(metric, "hr")))
        return found

    def numbers(self, chosen: NDArray[np.int64] | None = None) -> dict[str, list[float]]:
        """Return the number of each metric; one a seed.

        Args:
            chosen: Indices of the images that count; all by default.
        """
        index = np.arange(len(self.keys)) if chosen is None else chosen
        found: dict[str, list[float]] = {
            metric: [float(values[index].mean()) for values in seeds]
            for metric, seeds in self.per_image.items()
        }
        places = torch.from_numpy(index)
        for metric, seeds_features, hr in self.features:
            for sr in seeds_features:
                for name, value in metric.distances(sr[places], hr[places]).items():
                    found.setdefault(name, []).append(value)
        return found

    @cached_property
    def halves(self) -> dict[str, Numbers]:
        """The mean over seeds of each metric, on random halves; the same for rows of one task."""
        draws, count = np.random.default_rng(0), len(self.keys)
        found: dict[str, list[float]] = {}
        for _ in range(HALVES):
            half = np.sort(draws.choice(count, count // 2, replace=False))
            for name, values in self.numbers(half).items():
                found.setdefault(name, []).append(statistics.fmean(values))
        return {name: np.array(values) for name, values in found.items()}

    def stored(self) -> dict[str, float | str]:
        """Return means and deviations over seeds, as JSON holds them."""
        found = {name: short(value) for name, value in self.cost.items()}
        for name, values in self.numbers().items():
            found[name] = short(statistics.fmean(values))
            if len(values) > 1:
                found[f"{name}_std"] = short(statistics.stdev(values))
        return found

    def _features(self, metric: SetMetric, folder: str) -> Tensor:
        parts = []
        for key in self.keys:
            image = read_image(self.run / OUTPUTS / folder / key)
            parts.append(metric.finite_features(image, {"key": [key]}))
        return torch.cat(parts).double()


class Judgement(NamedTuple):
    """How far a row is from what a claim compares it with.

    value: The row's number minus the other one.
    interval: Of 95 %; None for too few images.
    higher: Whether a higher number is better.
    """

    value: float
    interval: tuple[float, float] | None
    higher: bool

    @property
    def verdict(self) -> str:
        """Whether the claim holds."""
        if self.interval is None or self.interval[0] <= 0 <= self.interval[1]:
            return OPEN
        return HOLDS if (self.interval[0] > 0) == self.higher else FAILS

    def stored(self) -> dict[str, Any]:
        """Return what JSON holds."""
        interval = self.interval and [short(end) for end in self.interval]
        return {"difference": short(self.value), "interval": interval, "verdict": self.verdict}


def judge(row: Measured, metric: str, than: Measured | float, margin: float) -> Judgement:
    """Return how far a row is from another one, or from a number.

    Args:
        row: The row that should be better.
        metric: Name of the metric.
        than: What it is compared with.
        margin: How much better it must be.

    Raises:
        ValueError: If the metric is unknown, or the rows have other images.
    """
    known = row.numbers()
    if metric not in known:
        raise ValueError(f"a claim names the metric {metric!r}; there are {', '.join(known)}")
    value, other = statistics.fmean(known[metric]), than
    if isinstance(than, Measured):
        if than.keys != row.keys:
            raise ValueError(f"{than.run} and {row.run} have other images: test both again")
        other = statistics.fmean(than.numbers()[metric])
    apart, interval = value - float(other) - margin, None  # type: ignore[arg-type]
    if len(row.keys) >= FEWEST:
        halves = row.halves[metric]
        if isinstance(than, Measured):
            halves = halves - than.halves[metric]
        reach = NORMAL * float(halves.std(ddof=1))
        interval = (apart - reach, apart + reach)
    return Judgement(apart, interval, metric in HIGHER_IS_BETTER)


def short(value: float) -> float | str:
    """Return six digits of a number, as JSON holds it."""
    return storable(float(f"{value:.6g}"))
