"""Combine evaluations of a stochastic method over the seeds of its noise."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from typing import NamedTuple

from callbacks.per_image import ImageNumbers
from callbacks.results_file import Result, identity


class Evaluation(NamedTuple):
    """The numbers of one pass over the images.

    seed: Seed of the method's noise; None for a method without any.
    results: The datasets' numbers, including those of bicubic.
    images: The numbers of single images.
    """

    seed: int | None
    results: list[Result]
    images: list[ImageNumbers]


def over_seeds(evaluations: Sequence[Evaluation]) -> list[Result]:
    """Return the mean of each number over the seeds, and its deviation if there are several.

    Args:
        evaluations: At least one; of the same metrics, in the order of their seeds.

    Returns:
        Results as of one evaluation. Bicubic has no noise, so its numbers are those of the first.
    """
    seeds = [evaluation.seed for evaluation in evaluations if evaluation.seed is not None]
    values: dict[str, list[float]] = {}
    left_out: dict[str, int] = {}  # the largest number of images without a finite number
    for evaluation in evaluations:
        for result in evaluation.results:
            values.setdefault(place := identity(result), []).append(result["value"])
            left_out[place] = max(left_out.get(place, 0), result.get("not_finite", 0))
    combined: list[Result] = []
    for result in evaluations[0].results:
        if not seeds or result["checkpoint"] == "bicubic":
            combined.append(result)
            continue
        found = values[identity(result)]
        together: Result = {**result, "value": _mean(found), "seeds": seeds}
        if len(found) > 1:
            together["std"] = _deviation(found)
        if left_out[identity(result)]:
            together["not_finite"] = left_out[identity(result)]
        combined.append(together)
    return combined


def images_of(evaluations: Sequence[Evaluation]) -> list[ImageNumbers]:
    """Return the numbers of single images of all seeds; those of bicubic once."""
    later = [n for e in evaluations[1:] for n in e.images if n["seed"] is not None]
    return evaluations[0].images + later


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)  # not fsum, which fails for inf and -inf


def _deviation(values: list[float]) -> float:
    return statistics.stdev(values) if all(map(math.isfinite, values)) else math.nan
