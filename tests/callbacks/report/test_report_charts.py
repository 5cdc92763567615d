"""Curves as SVG: where points lie, axes, means of many values."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from callbacks.report.page import POINTS, averaged, log_ticks, page, short, ticks
from callbacks.report.runs import Curve, Run
from tests.callbacks.parsed_page import Node, parse


def drawn(*curves: Curve) -> Node:
    runs = [Run(Path(), str(i), curves={"train/loss": c}) for i, c in enumerate(curves)]
    return parse(page(runs)).one("figure")


def numbers(text: str | None) -> list[float]:
    return [float(part) for part in (text or "").replace(",", " ").split()]


def values_of(figure: Node) -> list[tuple[float, float]]:
    """Return the points of the line, read back by the axes in the page."""
    svg = figure.one("svg")
    x, y = numbers(svg.attributes["data-x"]), numbers(svg.attributes["data-y"])
    if "data-log" in svg.attributes:
        y[:2] = [math.log10(v) for v in y[:2]]
    places = numbers(figure.one("polyline").attributes["points"])
    found = []
    for a, b in zip(places[::2], places[1::2], strict=True):
        step = x[0] + (a - x[2]) / (x[3] - x[2]) * (x[1] - x[0])
        value = y[0] + (b - y[2]) / (y[3] - y[2]) * (y[1] - y[0])
        found.append((step, 10**value if "data-log" in svg.attributes else value))
    return found


@pytest.mark.parametrize("values", [[1.0, 3.0, 2.0], [0.0, -4.0, 4.0], [1.0, 100.0, 0.01]])
def test_points_lie_where_the_axes_say(values: list[float]) -> None:
    figure = drawn(Curve([10, 20, 40], values))
    found = values_of(figure)
    spread = max(values) - min(values)
    for (step, value), (a, b) in zip(found, zip([10, 20, 40], values, strict=True), strict=True):
        assert step == pytest.approx(a, abs=0.01)
        assert value == pytest.approx(b, rel=0.01, abs=0.001 * spread)
    assert ("logarithmic" in figure.text) == (min(values) == 0.01)


def test_a_constant_and_a_single_value_have_axes() -> None:
    assert values_of(drawn(Curve([0, 5], [2.0, 2.0])))[1] == pytest.approx((5, 2))
    assert drawn(Curve([7], [0.0]), Curve([0, 5], [2.0, 2.0])).all("circle", "dot")


def test_many_values_are_means() -> None:
    count = 1000
    curve = Curve(list(range(count)), [float(n % 2) for n in range(count)])
    line = averaged(curve)
    assert len(line) == POINTS
    assert all(mean == pytest.approx(0.5, abs=0.2) for _, mean in line)
    assert averaged(Curve([1, 2], [1.0, 3.0])) == [(1, 1), (2, 3)]


def test_runs_have_colours_and_latest_values() -> None:
    figure = drawn(Curve([1, 2], [1.0, 2.0]), Curve([1, 2], [3.0, 2.5], left_out=1))
    assert [line.classes[1] for line in figure.all("polyline")] == ["series-0", "series-1"]
    assert figure.one("output").text == "2 · 2.5"
    assert "1 values that are not finite are left out" in figure.text


def test_ticks_are_round_and_inside() -> None:
    assert ticks(0, 1) == pytest.approx([0, 0.25, 0.5, 0.75, 1])
    assert ticks(-0.3, 12.1) == pytest.approx([0, 5, 10])
    assert log_ticks(0.01, 10) == pytest.approx([0.01, 0.1, 1, 10])
    assert log_ticks(0.9, 25) == pytest.approx([1, 3, 10])


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.0, "0"), (9999, "9999"), (500_000, "500k"), (2.5e6, "2.5M"), (1e-4, "0.0001")],
)
def test_short_numbers(value: float, text: str) -> None:
    assert short(value) == text


def test_a_name_that_is_not_utf_8_is_spelt_out() -> None:
    assert parse(page([Run(Path(), "<caf\udce9> é")])).one("h1").text == r"<caf\udce9> é"
