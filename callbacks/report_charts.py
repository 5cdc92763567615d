"""Curves as inline SVG: axes, a line a run, and the spread of what a line is the mean of."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from callbacks.markup import Attributes, Markup, element
from callbacks.report_runs import Curve

WIDTH, HEIGHT = 360.0, 200.0
LEFT, RIGHT, TOP, BOTTOM = 46.0, 12.0, 10.0, 24.0  # margins
POINTS = 200  # of a line; more values are averaged
COLORS = 8  # classes `series-0` ... of report.css
LOGARITHMIC = 20.0  # a range of positive values so wide has a logarithmic axis


class Line(NamedTuple):
    """A curve as it is drawn: each point stands for one value or for several, then a mean."""

    steps: list[float]
    means: list[float]
    lows: list[float]
    highs: list[float]


class Axis(NamedTuple):
    """From values to a place on the page; on logarithms where ``log`` is set."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def place(self, value: float) -> float:
        """Where a value lies, in units of the drawing."""
        low, high, at = (
            (math.log10(v) for v in (self.low, self.high, value))
            if self.log
            else (self.low, self.high, value)
        )
        return self.start + (at - low) / (high - low) * (self.end - self.start)


def chart(title: str, curves: Mapping[int, Curve]) -> Markup:
    """A drawing of one scalar.

    Args:
        title: Name of the scalar.
        curves: By the run's number, which chooses the colour; each has at least one value.
    """
    lines = {number: thinned(curve) for number, curve in curves.items()}
    x, y = _axes(list(lines.values()))
    last = "; ".join(f"{c.values[-1]:.4g} at step {c.steps[-1]}" for c in curves.values())
    attributes: Attributes = {
        "viewBox": f"0 0 {WIDTH:g} {HEIGHT:g}",
        "role": "img",
        "aria-label": f"{title}: {last}",
        "data-x": f"{x.low:.9g} {x.high:.9g} {x.start:g} {x.end:g}",
        "data-y": f"{y.low:.9g} {y.high:.9g} {y.start:g} {y.end:g}",
        "data-log": y.log,
    }
    parts = [*_grid(x, y)]
    for number, line in lines.items():
        parts += _drawn(line, x, y, f"series-{number % COLORS}", band=len(lines) == 1)
    picture = element("svg", attributes, *parts)
    note = _note(curves, y.log)
    heading = element("span", {"class": "name"}, title)
    value = element("output", {"class": "value"}, latest(curves))
    caption = element("figcaption", None, heading, value)
    return element("figure", {"class": "chart"}, caption, picture, *note)


def latest(curves: Mapping[int, Curve]) -> str:
    """The last value of each run."""
    return " · ".join(f"{curve.values[-1]:.4g}" for curve in curves.values())


def thinned(curve: Curve, points: int = POINTS) -> Line:
    """A curve of at most twice as many points, each of them the mean of its neighbours."""
    if len(curve.steps) <= 2 * points:
        values = list(map(float, curve.values))
        return Line(list(map(float, curve.steps)), values, values, values)
    steps = np.array_split(np.asarray(curve.steps, np.float64), points)
    values_ = np.array_split(np.asarray(curve.values, np.float64), points)
    return Line(
        [float(part.mean()) for part in steps],
        [float(part.mean()) for part in values_],
        [float(part.min()) for part in values_],
        [float(part.max()) for part in values_],
    )


def ticks(low: float, high: float, count: int = 4) -> list[float]:
    """Round numbers from ``low`` to ``high``, about ``count`` of them."""
    rough = (high - low) / count
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= rough * (1 - 1e-9))
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [n * step for n in range(first, last + 1)]


def log_ticks(low: float, high: float) -> list[float]:
    """Powers of ten from ``low`` to ``high``, and twice and five times them where these are few."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for factors in ((1,), (1, 3), (1, 2, 5)):
        found = [f * 10.0**p for p in powers for f in factors if low <= f * 10.0**p <= high]
        if len(found) >= 3:
            break
    return found


def short(value: float) -> str:
    """A number on an axis: 500000 is ``500k``."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if abs(value) >= size:
            divisor = 1e3 if letter == "k" else size
            return f"{value / divisor:.4g}{letter}"
    return f"{value:.4g}"


def _axes(lines: Sequence[Line]) -> tuple[Axis, Axis]:
    first = min(line.steps[0] for line in lines)
    last = max(line.steps[-1] for line in lines)
    low, high = min(min(line.lows) for line in lines), max(max(line.highs) for line in lines)
    log = low > 0 and high / low >= LOGARITHMIC
    if not log:
        # A constant has a range, too, and no line lies on the frame.
        margin = 0.05 * (high - low) or 0.05 * abs(high) or 1.0
        low, high = low - margin, high + margin
    x = Axis(first, last if last > first else first + 1, LEFT, WIDTH - RIGHT)
    return x, Axis(low, high, HEIGHT - BOTTOM, TOP, log)


def _grid(x: Axis, y: Axis) -> list[Markup]:
    parts = []
    place: Attributes
    for value in log_ticks(y.low, y.high) if y.log else ticks(y.low, y.high):
        at = round(y.place(value), 1)
        ends = {"x1": LEFT, "x2": WIDTH - RIGHT, "y1": at, "y2": at}
        parts.append(element("line", {"class": "grid", **ends}))
        place = {"class": "tick end", "x": LEFT - 6, "y": at + 3.5}
        parts.append(element("text", place, short(value)))
    for value in ticks(x.low, x.high):
        place = {"class": "tick middle", "x": round(x.place(value), 1), "y": HEIGHT - 7}
        parts.append(element("text", place, short(value)))
    return parts


def _drawn(line: Line, x: Axis, y: Axis, series: str, band: bool) -> list[Markup]:
    at = [x.place(step) for step in line.steps]

    def points(values: Sequence[float]) -> list[str]:
        return [f"{a:.1f},{y.place(v):.1f}" for a, v in zip(at, values, strict=True)]

    if len(at) == 1:
        middle = {"cx": round(at[0], 1), "cy": round(y.place(line.means[0]), 1)}
        return [element("circle", {"class": f"dot {series}", "r": 3, **middle})]
    parts = []
    if band and line.lows is not line.highs:
        outline = "M" + "L".join(points(line.highs) + points(line.lows)[::-1]) + "Z"
        parts.append(element("path", {"class": f"band {series}", "d": outline}))
    means = " ".join(points(line.means))
    return [*parts, element("polyline", {"class": f"line {series}", "points": means})]


def _note(curves: Mapping[int, Curve], log: bool) -> list[Markup]:
    words = ["logarithmic"] if log else []
    many = [c for c in curves.values() if len(c.steps) > 2 * POINTS]
    if many:
        spread = " of their least and greatest" if len(curves) == 1 else ""
        words.append(f"means{' over the spread' + spread if spread else ''}")
    if left_out := sum(curve.left_out for curve in curves.values()):
        words.append(f"{left_out} values that are not finite left out")
    return [element("p", {"class": "note"}, "; ".join(words))] if words else []
