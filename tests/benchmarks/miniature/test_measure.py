"""Numbers of rows, and what may be said of two of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks.miniature import measure
from benchmarks.miniature.measure import FAILS, HOLDS, OPEN, Judgement, Measured, judge
from tests.benchmarks.miniature.cars import COUNT, write_run


@pytest.fixture(autouse=True)
def few_halves(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure, "HALVES", 20)


@pytest.fixture(scope="module")
def near(tmp_path_factory: pytest.TempPathFactory) -> Measured:
    return Measured(write_run(tmp_path_factory.mktemp("near"), 4))


@pytest.fixture(scope="module")
def far(tmp_path_factory: pytest.TempPathFactory) -> Measured:
    return Measured(write_run(tmp_path_factory.mktemp("far"), 16))


def test_numbers_are_those_of_each_seed(near: Measured) -> None:
    numbers = near.numbers()
    middle = 36 + (COUNT - 1) / 16
    assert numbers["psnr"] == pytest.approx([middle, middle + 1])
    assert all(len(values) == 2 for values in numbers.values())
    assert numbers.keys() == {"psnr", "swd", "swd_2", "kid_thumb", "repetition"}
    stored = near.stored()
    assert stored["psnr"] == pytest.approx(middle + 0.5, abs=1e-4)
    assert stored["psnr_std"] == pytest.approx(0.5**0.5, abs=1e-4)
    assert stored["calls"] == 3


def test_more_noise_is_further_from_hr(near: Measured, far: Measured) -> None:
    for metric in ("psnr", "swd", "swd_2"):
        assert judge(near, metric, far, 0).verdict == HOLDS
        assert judge(far, metric, near, 0).verdict == FAILS
        assert judge(far, metric, far, 0).verdict == OPEN


def test_a_margin_and_a_number(near: Measured, far: Measured) -> None:
    assert judge(near, "psnr", far, 12).value == pytest.approx(0)
    assert judge(near, "psnr", far, 3).value == pytest.approx(9)
    swd = judge(near, "swd", 100.0, 0)
    assert swd.verdict == HOLDS
    assert swd.value == pytest.approx(np.mean(near.numbers()["swd"]) - 100)


def test_intervals_are_paired(near: Measured, far: Measured) -> None:
    """Two rows whose images differ by a constant differ by it without doubt."""
    interval = judge(near, "psnr", far, 0).interval
    assert interval == pytest.approx((12, 12))
    own = judge(near, "psnr", 0.0, 0).interval
    assert own is not None
    assert own[1] - own[0] > 0.5


def test_halves_have_the_deviation_of_a_mean(
    near: Measured, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The deviation of the values, divided by the root of their number."""
    values = np.random.default_rng(0).normal(size=COUNT)
    row = Measured(near.run)
    row.__dict__.update(per_image={"psnr": [values]}, features=[])
    monkeypatch.setattr(measure, "HALVES", 2000)
    expected = values.std(ddof=1) / COUNT**0.5
    assert row.halves["psnr"].std() == pytest.approx(expected, rel=0.05)


def test_few_images_decide_nothing(tmp_path: Path) -> None:
    few = [Measured(write_run(tmp_path / str(n), n, count=measure.FEWEST - 1)) for n in (2, 9)]
    found = judge(few[0], "psnr", few[1], 0)
    assert (found.interval, found.verdict) == (None, OPEN)


def test_an_unknown_metric_is_named(near: Measured) -> None:
    with pytest.raises(ValueError, match="names the metric 'niqe'; there are psnr, swd"):
        judge(near, "niqe", 1.0, 0)


def test_rows_of_other_images_are_not_compared(near: Measured, tmp_path: Path) -> None:
    other = Measured(write_run(tmp_path, 4, count=COUNT + 1))
    with pytest.raises(ValueError, match="have other images: test both again"):
        judge(near, "psnr", other, 0)


@pytest.mark.parametrize(
    ("interval", "higher", "verdict"),
    [
        ((0.1, 0.2), True, HOLDS),
        ((0.1, 0.2), False, FAILS),
        ((-0.2, -0.1), False, HOLDS),
        ((-0.2, -0.1), True, FAILS),
        ((-0.2, 0.1), True, OPEN),
        (None, True, OPEN),
    ],
)
def test_verdicts(interval: tuple[float, float] | None, higher: bool, verdict: str) -> None:
    assert Judgement(0.0, interval, higher).verdict == verdict
