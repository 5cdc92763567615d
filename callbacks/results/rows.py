"""Rows: each number that was measured, of an image or of a whole dataset, in one list."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from callbacks.evaluation import MetricProtocol
from callbacks.metrics.base import Metric
from callbacks.results.digests import digest_of_set

CONTROL = "bicubic"  # `checkpoint` of a metric's control
Place = tuple[str, float, str | None]  # dataset, scale, checkpoint


@dataclass(frozen=True, kw_only=True)
class Row:
    """A number, and what it belongs to.

    Without ``image`` it is the number of a whole dataset: that of a set, such as FID, or the mean
    over the images whose number is finite.

    Args:
        dataset: Name of the source in the configuration, e.g. ``set5``.
        scale: The factor its images were enlarged by.
        metric: Name of the metric in the logs.
        protocol: How the number was computed.
        checkpoint: File or name of the weights, with the options that change their outputs; None
            for a method without any; ``bicubic`` for a metric's control.
        value: The number.
        image: Key of the image.
        seed: Seed of the method's noise; None without noise, and for a mean over seeds.
        digest: What was measured, see ``digests.py``; None in files of earlier versions.
        n: Number of images.
        not_finite: Number of those without a finite number.
        higher_is_better: The metric's direction; None if it has none, or is unknown.
        sha256: Of the weights' file; None without one.
        seeds: The seeds that the number of a dataset is the mean over.
        std: Sample deviation of the dataset's number over several seeds.
    """

    dataset: str
    scale: float
    metric: str
    protocol: MetricProtocol
    checkpoint: str | None
    value: float
    image: str | None = None
    seed: int | None = None
    digest: str | None = None
    n: int = 1
    not_finite: int = 0
    higher_is_better: bool | None = None
    sha256: str | None = None
    seeds: list[int] | None = None
    std: float | None = None

    @cached_property
    def number(self) -> str:
        """A key that rows of one number share, whatever their image and seed."""
        parts = [self.dataset, self.scale, self.metric, self.protocol, self.checkpoint]
        return json.dumps(parts, sort_keys=True)

    @property
    def place(self) -> Place:
        """The row of a table that the number is in."""
        return self.dataset, self.scale, self.checkpoint

    @property
    def title(self) -> str:
        """The number in words, without protocol and checkpoint."""
        return f"{self.metric} on {self.dataset} x{self.scale:g}"


def of_datasets(rows: Sequence[Row]) -> list[Row]:
    """Return the numbers of whole datasets."""
    return [row for row in rows if row.image is None]


def of_images(rows: Sequence[Row]) -> list[Row]:
    """Return the numbers of single images."""
    return [row for row in rows if row.image is not None]


def rows_of(
    metric: Metric,
    checkpoint: str | None,
    seed: int | None,
    sha256: str | None = None,
    digests: Mapping[str, Mapping[str, str]] | None = None,
) -> Iterator[Row]:
    """Yield the numbers of a metric's latest evaluation, those of its control last.

    Args:
        metric: The metric; only that of the first process has numbers.
        checkpoint: What was evaluated, see ``Row``.
        seed: Seed of the method's noise; None for a method without any.
        sha256: Of the weights' file.
        digests: Of the images, by dataset and key.
    """
    digests = digests or {}
    for record in metric.records:
        higher_is_better = metric.is_higher_better(record["metric"])
        number = Row(
            **record,
            checkpoint=checkpoint,
            seed=seed,
            sha256=sha256,
            higher_is_better=higher_is_better,
        )
        yield from _with_images(number, metric.images, digests)
    for record in metric.control_records:
        higher_is_better = metric.is_higher_better(record["metric"])
        number = Row(**record, checkpoint=CONTROL, higher_is_better=higher_is_better)
        yield from _with_images(number, metric.control_images, digests)


def _with_images(
    number: Row,
    images: Mapping[str, Mapping[str, float]],
    digests: Mapping[str, Mapping[str, str]],
) -> Iterator[Row]:
    """Yield the number of a dataset, and those of its images; a metric of sets has none."""
    values = images.get(number.dataset, {})
    of_all = digests.get(number.dataset, {})
    measured = {key: of_all[key] for key in values or of_all if key in of_all}
    yield replace(number, digest=digest_of_set(measured))
    for key, value in values.items():
        digest = of_all.get(key)
        yield replace(number, image=key, value=value, digest=digest, n=1, not_finite=0)


def over_seeds(evaluations: Sequence[Sequence[Row]]) -> list[Row]:
    """Return the rows of all evaluations, with one number for each dataset: the mean over seeds.

    Args:
        evaluations: At least one; of the same metrics, in the order of their seeds.

    Returns:
        The means, then the rows of images. Rows without a seed, such as those of the control, are
        taken from the first evaluation. A number that an evaluation lacks, because an output is not
        finite, is NaN.
    """
    rows = list(evaluations[0])
    for evaluation in evaluations[1:]:
        rows += [row for row in evaluation if row.seed is not None]
    seeds = list(dict.fromkeys(row.seed for row in rows if row.seed is not None))
    by_number: dict[str, list[Row]] = {}
    for row in of_datasets(rows):
        by_number.setdefault(row.number, []).append(row)
    means = [_mean(same, seeds) for same in by_number.values()]
    return means + of_images(rows)


def _mean(rows: list[Row], seeds: list[int]) -> Row:
    """Return one number of all seeds."""
    first = rows[0]
    if first.seed is None:
        return first
    values = [row.value for row in rows]
    values += [math.nan] * (len(seeds) - len(values))
    std = None
    if len(values) > 1:
        are_finite = all(map(math.isfinite, values))
        std = statistics.stdev(values) if are_finite else math.nan
    return replace(
        first,
        value=sum(values) / len(values),  # not fsum, which fails for inf and -inf
        seed=None,
        seeds=seeds,
        std=std,
        not_finite=max(row.not_finite for row in rows),
    )
