"""Robustness: how evenly a method does over images, from the numbers of other metrics.

After the tables of Kong et al., "NSARM: next-scale autoregressive modeling for robust real-world
image super-resolution" (2025; arXiv 2510.00820): variance over images, and the numbers of images
below three thresholds, Deficient, Poor and Collapse. The thresholds were not in our sources.
"""

from __future__ import annotations

import logging
import math
import statistics
from collections.abc import Mapping
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from torch import Tensor

from callbacks.evaluation import MetricProtocol, all_callbacks
from callbacks.metrics.base import ImageMetric, Measured, Metric, Record
from files.batch import Batch

log = logging.getLogger(__name__)


class Robustness(Metric):
    """Variance over images of each metric of the run, and shares of images beyond thresholds.

    Stands in ``trainer.callbacks`` after the metrics, whose numbers it reads: nothing is computed
    twice. For each dataset, and for bicubic where a metric has it as its control:

    robustness_<metric>_variance     without infinite numbers, which are counted; divided by n
    robustness_<metric>_<threshold>  share of images, 0 to 1, whose number is worse than the
                                     threshold; an image whose number is NaN, as that of a broken
                                     output, counts as worse than all
    robustness_<score>               mean of a score

    A score is a weighted sum of metrics for each image, such as the paper's mean of four, and has a
    variance and shares, too. Lower is better, except for a score. A variance or mean is NaN if the
    number of an image is. In a sweep of degradation strength, each strength is a dataset
    (``configs/data/strengths.yaml``).

    Args:
        thresholds: Thresholds by name, for each metric or score by its name in the logs, such as
            ``{musiq: {poor: 50, collapse: 30}}``.
        scores: Weights of metrics by their name in the logs, for each score by its name, such as
            ``{quality: {clipiqa: 0.5, musiq: 0.005}}``. Higher is better for a score, so a metric
            for which lower is better needs a negative weight.
        label: Begins the names in logs and results, instead of ``robustness``.

    Raises:
        ValueError: A score has no metrics, or in ``setup`` a name is not that of a metric of the
            run, a score has a metric's name, a weight has the wrong sign, or a metric stands later.
    """

    name = "robustness"
    higher_is_better = False
    needs_hr = False

    def __init__(
        self,
        thresholds: dict[str, dict[str, float]] | None = None,
        scores: dict[str, dict[str, float]] | None = None,
        label: str | None = None,
    ) -> None:
        super().__init__(label=label)
        self.thresholds, self.scores = thresholds or {}, scores or {}
        if empty := [name for name, weights in self.scores.items() if not weights]:
            raise ValueError(f"`scores.{empty[0]}` of Robustness is empty; expected metric: weight")
        self._metrics: dict[str, ImageMetric] = {}

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Find the metrics of the run, and compare the settings with them.

        Raises:
            ValueError: As the class.
        """
        super().setup(trainer, pl_module, stage)
        callbacks = all_callbacks(trainer)
        self._metrics = {c.name: c for c in callbacks if isinstance(c, ImageMetric)}
        for metric in self._metrics.values():
            if callbacks.index(metric) > callbacks.index(self):
                raise ValueError(
                    f"Robustness reads the numbers of {metric.name}, which stands after it in "
                    "trainer.callbacks: move Robustness to the end"
                )
        self._check_names()

    def _check_names(self) -> None:
        asked = {name for weights in self.scores.values() for name in weights}
        asked |= self.thresholds.keys() - self.scores.keys()
        if unknown := sorted(asked - self._metrics.keys()):
            raise ValueError(
                f"Robustness names {', '.join(unknown)}; metrics of the run with a number for each "
                f"image: {', '.join(self._metrics) or 'none'}"
            )
        for score, weights in self.scores.items():
            if score in self._metrics:
                raise ValueError(f"`scores.{score}` of Robustness: a metric has this name already")
            for name, weight in weights.items():
                if (weight > 0) != self._metrics[name].higher_is_better:
                    raise ValueError(
                        f"`scores.{score}` of Robustness has the weight {weight:g} for {name}: a "
                        "score must rise with quality"
                    )

    def is_higher_better(self, name: str) -> bool | None:
        """Return True for the mean of a score, else False."""
        return name.removeprefix(f"{self.name}_") in self.scores

    def protocol(self) -> MetricProtocol:
        """Return the implementation; a record has the protocols of its metrics, too."""
        return {"implementation": "enlarger robustness 1"}

    def measure(self, sr: Tensor, hr: Tensor, batch: Batch) -> Tensor:
        """Not called: other metrics measure."""
        raise NotImplementedError

    def _add(self, *args: Any, **kwargs: Any) -> None:
        """Nothing: other metrics measure."""

    def _summaries(self, small: list[list[Measured]]) -> tuple[list[Record], ...]:
        found: tuple[list[Record], ...] = ([], [])
        for dataset in self._datasets:
            for kind, records in zip(("images", "control_images"), found, strict=True):
                every = {n: getattr(m, kind).get(dataset.name) for n, m in self._metrics.items()}
                records += self.summarise(dataset, {n: v for n, v in every.items() if v})
        return found

    def summarise(self, dataset: Any, images: Measured) -> list[Record]:
        """Return the numbers of a dataset.

        Args:
            dataset: The dataset.
            images: For each metric by its name, the numbers of the images by their keys.
        """
        records = []
        for name, values in images.items():
            metric = self._metrics[name]
            higher = metric.higher_is_better
            records += self._statistics(dataset, name, values, metric.protocol(), higher)
        for score, weights in self.scores.items():
            if missing := weights.keys() - images.keys():
                if images:
                    log.warning(
                        "no %s_%s of %s: there is no number of %s",
                        *(self.name, score, dataset.name, ", ".join(sorted(missing))),
                    )
                continue
            # A metric may have left out images that are too small for it.
            shared = set.intersection(*(set(images[name]) for name in weights))
            values = {
                key: sum(weight * images[name][key] for name, weight in weights.items())
                for key in sorted(shared)
            }
            protocol = self.protocol()
            for name, weight in weights.items():
                parts = ", ".join(f"{k} {v}" for k, v in self._metrics[name].protocol().items())
                protocol[f"{weight:g} {name}"] = parts
            mean, _, not_finite = _moments(values)
            records.append(self._record(dataset, score, mean, values, protocol, not_finite))
            records += self._statistics(dataset, score, values, protocol, True)
        return records

    def _statistics(
        self,
        dataset: Any,
        name: str,
        values: Mapping[str, float],
        protocol: MetricProtocol,
        higher: bool,
    ) -> list[Record]:
        _, variance, not_finite = _moments(values)
        of = {**protocol, "statistic": "variance over images, divided by n"}
        records = [self._record(dataset, f"{name}_variance", variance, values, of, not_finite)]
        for threshold, limit in self.thresholds.get(name, {}).items():
            # NaN is worse than anything.
            fine = [v >= limit if higher else v <= limit for v in values.values()]
            side = "below" if higher else "above"
            of = {**protocol, "statistic": f"share of images {side} {limit:g}"}
            share = fine.count(False) / len(fine)
            records.append(self._record(dataset, f"{name}_{threshold}", share, values, of))
        return records

    def _record(
        self,
        dataset: Any,
        name: str,
        value: float,
        values: Mapping[str, float],
        protocol: MetricProtocol,
        not_finite: int = 0,
    ) -> Record:
        record = self.record(dataset, value, len(values), f"{self.name}_{name}")
        record["protocol"] = {**record["protocol"], **protocol}
        if not_finite:
            record["not_finite"] = not_finite
        return record


def _moments(values: Mapping[str, float]) -> tuple[float, float, int]:
    """Return mean and variance without infinite numbers, and how many are not finite."""
    kept = [value for value in values.values() if not math.isinf(value)]
    left_out = len(values) - sum(map(math.isfinite, values.values()))
    if not kept:
        return math.nan, math.nan, left_out
    return statistics.fmean(kept), statistics.pvariance(kept), left_out
