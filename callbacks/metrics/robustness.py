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
        ValueError: In ``setup``: a name is not that of a metric of the run, a metric stands later,
            or a weight has the wrong sign.
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
        self.thresholds = thresholds or {}
        self.scores = scores or {}
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
        names = self.thresholds.keys() - self.scores.keys()
        for weights in self.scores.values():
            names |= weights.keys()
        unknown = sorted(names - self._metrics.keys())
        if unknown:
            raise ValueError(
                f"Robustness names {', '.join(unknown)}; metrics of the run with a number for each "
                f"image: {', '.join(self._metrics) or 'none'}"
            )
        for score, weights in self.scores.items():
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

    def _summaries(self, small: list[list[dict[str, str]]]) -> tuple[list[Record], list[Record]]:
        records: list[Record] = []
        control_records: list[Record] = []
        for dataset in self._datasets:
            output: Measured = {}
            bicubic: Measured = {}
            for name, metric in self._metrics.items():
                if dataset.name in metric.images:
                    output[name] = metric.images[dataset.name]
                if dataset.name in metric.control_images:
                    bicubic[name] = metric.control_images[dataset.name]
            records += self.summarise(dataset, output)
            control_records += self.summarise(dataset, bicubic)
        return records, control_records

    def summarise(self, dataset: Any, images: Measured) -> list[Record]:
        """Return the numbers of a dataset.

        Args:
            dataset: The dataset.
            images: For each metric by its name, the numbers of the images by their keys.
        """
        records = []
        for name, values in images.items():
            metric = self._metrics[name]
            protocol = metric.protocol()
            records += self._statistics(dataset, name, values, protocol, metric.higher_is_better)
        for score, weights in self.scores.items():
            if images:
                records += self._score(dataset, score, weights, images)
        return records

    def _score(
        self, dataset: Any, score: str, weights: Mapping[str, float], images: Measured
    ) -> list[Record]:
        missing = sorted(weights.keys() - images.keys())
        if missing:
            log.warning(
                f"no {self.name}_{score} of {dataset.name}: there is no number of "
                f"{', '.join(missing)}"
            )
            return []
        # A metric may have left out images that are too small for it.
        keys = set.intersection(*(set(images[name]) for name in weights))
        values = {}
        for key in sorted(keys):
            values[key] = sum(weight * images[name][key] for name, weight in weights.items())
        protocol = self.protocol()
        for name, weight in weights.items():
            described = self._metrics[name].protocol().items()
            protocol[f"{weight:g} {name}"] = ", ".join(f"{k} {v}" for k, v in described)
        mean, _, not_finite = _moments(values)
        return [
            self._record(dataset, score, mean, values, protocol, not_finite),
            *self._statistics(dataset, score, values, protocol, True),
        ]

    def _statistics(
        self,
        dataset: Any,
        name: str,
        values: Mapping[str, float],
        protocol: MetricProtocol,
        higher_is_better: bool,
    ) -> list[Record]:
        _, variance, not_finite = _moments(values)
        of_variance = {**protocol, "statistic": "variance over images, divided by n"}
        records = [
            self._record(dataset, f"{name}_variance", variance, values, of_variance, not_finite)
        ]
        for threshold, limit in self.thresholds.get(name, {}).items():
            # NaN is worse than anything.
            if higher_is_better:
                good = sum(value >= limit for value in values.values())
            else:
                good = sum(value <= limit for value in values.values())
            side = "below" if higher_is_better else "above"
            of_share = {**protocol, "statistic": f"share of images {side} {limit:g}"}
            share = (len(values) - good) / len(values)
            records.append(self._record(dataset, f"{name}_{threshold}", share, values, of_share))
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
    not_infinite = [value for value in values.values() if not math.isinf(value)]
    not_finite = sum(not math.isfinite(value) for value in values.values())
    if not not_infinite:
        return math.nan, math.nan, not_finite
    return statistics.fmean(not_infinite), statistics.pvariance(not_infinite), not_finite
