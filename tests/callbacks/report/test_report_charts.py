"""Curves as SVG: where points lie, axes, means of many values."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from callbacks.report.page import page
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
