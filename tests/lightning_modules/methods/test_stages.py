"""CasArbi's stage plan."""

from __future__ import annotations

import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightning_modules.methods.casarbi import Stages

ORDERS = ["remainder_last", "remainder_first", "uniform"]


def sides(n, scale, fixed, order="remainder_last", **options):
    """Of a square input."""
    target = math.floor(n * scale + 0.5)
    return [h for h, _ in Stages(fixed, order, **options).sizes((n, n), (target, target))]


@pytest.mark.parametrize(
    ("n", "scale", "fixed", "expected"),
    [
        (16, 12, 2, [32, 64, 128, 192]),
        (16, 5.3, 2, [32, 64, 85]),
        (48, 8, 4, [192, 384]),
        (48, 17, 4, [192, 768, 816]),
        (16, 16, 2, [32, 64, 128, 256]),
        (20, 125, 5, [100, 500, 2500]),  # floor(log 125 / log 5) is 2
        (10, 1.5, 2, [15]),
        (10, 2, 2, [20]),
        (10, 1, 2, []),
    ],
)
def test_remainder_last(n, scale, fixed, expected):
    assert sides(n, scale, fixed) == expected


def test_the_other_orders():
    assert sides(16, 12, 2, "remainder_first") == [24, 48, 96, 192]
    assert sides(16, 12, 2, "uniform") == [30, 55, 103, 192]
    assert sides(16, 8, 2, "uniform") == sides(16, 8, 2) == [32, 64, 128]


def test_targets_share_their_first_stages():
    assert sides(16, 5.3, 2)[:2] == sides(16, 7, 2)[:2] == [32, 64]
    assert sides(16, 5.3, 2, "remainder_first")[0] != sides(16, 7, 2, "remainder_first")[0]


@pytest.mark.parametrize("order", ORDERS)
def test_a_rounded_target_has_no_further_stage(order):
    """49.5 becomes 50, and 52.5 becomes 52."""
    for size, target in (((33, 33), (50, 50)), ((33, 35), (50, 52))):
        assert Stages(1.5, order).sizes(size, target) == [target]
    assert len(Stages(1.5, order).sizes((33, 35), (74, 79))) == 2  # of 74.25 and 78.75


def test_sides_of_differing_ratios():
    assert Stages(2).sizes((10, 10), (20, 80)) == [(20, 20), (20, 40), (20, 80)]
    assert Stages(2).sizes((10, 20), (35, 50)) == [(20, 40), (35, 50)]
    assert Stages(2).sizes((10, 20), (10, 30)) == [(10, 30)]


@given(
    st.tuples(st.integers(1, 60), st.integers(1, 60)),
    st.tuples(st.floats(1, 20), st.floats(1, 20)),
    st.sampled_from([1.5, 2, 3, 4]),
    st.sampled_from(ORDERS),
)
def test_any_plan(size, scales, fixed, order):
    target = tuple(math.floor(n * s + 0.5) for n, s in zip(size, scales, strict=True))
    plan = Stages(fixed, order).sizes(size, target)
    assert (plan == []) == (target == size)
    if plan:
        assert plan[-1] == target
    grown = [size, *plan]
    for before, after in itertools.pairwise(grown):
        for n, m, first in zip(before, after, size, strict=True):
            assert n <= m
            assert m <= fixed * n + fixed + 1, (first, plan)  # rounding, twice
    wanted = math.ceil(math.log(max(t / n for t, n in zip(target, size, strict=True)), fixed))
    assert len(plan) <= wanted + 2
