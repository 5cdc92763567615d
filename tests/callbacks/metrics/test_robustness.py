"""Robustness: variance, shares beyond thresholds, scores, and a sweep of strengths."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from callbacks.metrics.base import ImageMetric
from callbacks.metrics.robustness import Robustness
from degradations.bicubic import resize
from tests.callbacks.tiny import Tiny, loader, trainer

VALUES = (30.0, 20.0, 10.0, 40.0, 25.0, 5.0, 32.0)  # of the seven images of `Images`


class Given(ImageMetric):
    """The number of an image follows from its name, so that all is known beforehand."""

    name = "given"
    values: tuple[float, ...] = VALUES
    factor = 1.0

    def protocol(self) -> dict[str, Any]:
        return {"implementation": f"given {self.factor:g}"}

    def compute(self, sr: Tensor, hr: Tensor, batch: Any) -> Tensor:
        strength = {"strong": 0.5}.get(batch["key"][0].split("/")[0], 1.0)
        of = [self.values[int(key.split("/")[1])] for key in batch["key"]]
        if torch.equal(sr, resize(batch["lr"], sr.shape[-2:])):
            strength /= 2  # bicubic is worse
        return torch.tensor(of, dtype=torch.float64) * self.factor * strength


class Lower(Given):
    name = "lower"
    higher_is_better = False
    factor = 2.0


class Broken(Given):
    name = "broken"
    values = (*VALUES[:5], math.nan, math.inf)


def records_of(folder: Path, *callbacks: Any, sets: Any = None) -> dict[tuple[str, str], Any]:
    run = trainer(folder, *callbacks)
    run.test(Tiny(), sets or loader(), verbose=False)
    robust = next(c for c in callbacks if isinstance(c, Robustness))
    return {(r["dataset"], r["metric"]): r for r in robust.records}


def values_of(found: dict[tuple[str, str], Any]) -> dict[str, float]:
    return {metric: record["value"] for (_, metric), record in found.items()}


def test_variance_of_every_metric_without_any_setting(tmp_path: Path) -> None:
    found = records_of(tmp_path, Given(), Lower(), Robustness())
    assert values_of(found) == {
        "robustness_given_variance": pytest.approx(np.var(VALUES)),
        "robustness_lower_variance": pytest.approx(4 * np.var(VALUES)),
    }
    record = found["tiny", "robustness_lower_variance"]
    assert record["n"] == 7
    assert record["protocol"] == {
        "implementation": "given 2",
        "statistic": "variance over images, divided by n",
    }


def test_shares_on_the_worse_side_of_thresholds(tmp_path: Path) -> None:
    limits = {"deficient": 30.0, "poor": 20.0, "collapse": 10.0, "none": 5.0}
    robust = Robustness({"given": limits, "lower": {"high": 60.0}}, label="even")
    found = records_of(tmp_path, Given(), Lower(), robust)
    values = values_of(found)
    assert values["even_given_deficient"] == pytest.approx(4 / 7)  # 30 itself is not below
    assert values["even_given_poor"] == pytest.approx(2 / 7)
    assert values["even_given_collapse"] == pytest.approx(1 / 7)
    assert values["even_given_none"] == 0
    assert values["even_lower_high"] == pytest.approx(2 / 7)  # 80 and 64 are above 60
    got = {m: r["protocol"]["statistic"] for (_, m), r in found.items()}
    assert got["even_given_poor"] == "share of images below 20"
    assert got["even_lower_high"] == "share of images above 60"


def test_a_score_is_a_weighted_sum_for_each_image(tmp_path: Path) -> None:
    robust = Robustness({"mixed": {"poor": 0.0}}, {"mixed": {"given": 1, "lower": -0.25}})
    found = records_of(tmp_path, Given(), Lower(), robust)
    values = values_of(found)
    assert values["robustness_mixed"] == pytest.approx(0.5 * np.mean(VALUES))
    assert values["robustness_mixed_variance"] == pytest.approx(0.25 * np.var(VALUES))
    assert values["robustness_mixed_poor"] == 0
    assert found["tiny", "robustness_mixed"]["protocol"] == {
        "implementation": "enlarger robustness 1",
        "1 given": "implementation given 1",
        "-0.25 lower": "implementation given 2",
    }


def test_a_score_rises_with_quality(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="must rise with quality"):
        records_of(tmp_path, Lower(), Robustness(scores={"mixed": {"lower": 0.25}}))


def test_numbers_that_are_not_finite(tmp_path: Path) -> None:
    robust = Robustness({"broken": {"collapse": 15.0}}, {"sum": {"broken": 1, "given": 1}})
    found = records_of(tmp_path, Given(), Broken(), robust)
    variance = found["tiny", "robustness_broken_variance"]
    assert math.isnan(variance["value"])
    assert variance["not_finite"] == 2
    assert math.isnan(found["tiny", "robustness_sum"]["value"])
    # NaN is a collapse; infinity is not.
    assert found["tiny", "robustness_broken_collapse"]["value"] == pytest.approx(2 / 7)
    Infinite = type("Infinite", (Given,), {"values": (*VALUES[:6], math.inf)})
    variance = records_of(tmp_path, Infinite(), Robustness())["tiny", "robustness_given_variance"]
    assert variance["value"] == pytest.approx(np.var(VALUES[:6]))
    assert variance["not_finite"] == 1
