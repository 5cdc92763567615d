"""The curves of a report: axes, a line for each run, and the spread of averaged values."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from callbacks.report_runs import Curve

WIDTH, HEIGHT = 360, 200
LEFT, RIGHT, TOP, BOTTOM = 46, 12, 10, 24  # margins
POINTS = 200  # of a line; more values are averaged
COLORS = 8  # classes `series-0` ... of report.css
LOGARITHMIC = 20.0  # a positive range with at least this ratio has a logarithmic axis

Places = list[tuple[float, float]]  # x and y in the drawing


class Line(NamedTuple):
    """A curve as it is drawn: each point is one value, or the mean of several."""

    steps: list[float]
    means: list[float]
    lows: list[float]
    highs: list[float]


class Axis(NamedTuple):
    """Map values to places in a drawing, on a logarithmic scale if ``log`` is set."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def place(self, value: float) -> float:
        """Return the place of a value, in units of the drawing."""
        low, high, at = (
            (math.log10(v) for v in (self.low, self.high, value))
            if self.log
            else (self.low, self.high, value)
        )
        return self.start + (at - low) / (high - low) * (self.end - self.start)

    def ticks(self, count: int = 4) -> list[tuple[float, str]]:
        """Return the place and the text of about ``count`` ticks."""
        found = log_ticks(self.low, self.high) if self.log else ticks(self.low, self.high, count)
        return [(self.place(value), short(value)) for value in found]


class Series(NamedTuple):
    """One run's line in a chart.

    color: Its number; ``COLORS`` of them exist.
    line: Places of its points; a single one is drawn as a dot.
    band: Outline of the least and greatest of averaged values; empty for none.
    """

    color: int
    line: Places
    band: Places


class Chart(NamedTuple):
    """The drawing of one scalar.

    title: Name of the scalar.
    latest: The last value of each run.
    summary: The last values with their steps, for screen readers.
    note: What the drawing leaves out or averages; may be empty.
    """

    title: str
    latest: str
    summary: str
    x: Axis
    y: Axis
    series: list[Series]
    note: str


def chart(title: str, curves: Mapping[int, Curve]) -> Chart:
    """Lay out the drawing of one scalar.

    Args:
        title: Name of the scalar.
        curves: By the run's number, which chooses the colour; each has at least one value.
    """
    lines = {number: averaged(curve) for number, curve in curves.items()}
    x, y = _axes(list(lines.values()))
    summary = "; ".join(f"{c.values[-1]:.4g} at step {c.steps[-1]}" for c in curves.values())
    series = [
        _series(number, line, x, y, with_band=len(lines) == 1) for number, line in lines.items()
    ]
    return Chart(title, latest(curves), summary, x, y, series, _note(curves, y.log))


def latest(curves: Mapping[int, Curve]) -> str:
    """Return the last value of each run."""
    return " · ".join(f"{curve.values[-1]:.4g}" for curve in curves.values())


def averaged(curve: Curve, points: int = POINTS) -> Line:
    """Reduce a curve of more than ``2 * points`` values to ``points`` means of neighbours."""
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
    """Return about ``count`` round numbers from ``low`` to ``high``."""
    rough = (high - low) / count
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= rough * (1 - 1e-9))
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [n * step for n in range(first, last + 1)]


def log_ticks(low: float, high: float) -> list[float]:
    """Return the powers of ten in a range, with multiples in between if there are few."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for factors in ((1,), (1, 3), (1, 2, 5)):
        found = [f * 10.0**p for p in powers for f in factors if low <= f * 10.0**p <= high]
        if len(found) >= 3:
            break
    return found


def short(value: float) -> str:
    """Format a number for an axis: 500000 is ``500k``."""
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
        # A constant gets a range, too, and no line lies on the frame.
        margin = 0.05 * (high - low) or 0.05 * abs(high) or 1.0
        low, high = low - margin, high + margin
    x = Axis(first, last if last > first else first + 1, LEFT, WIDTH - RIGHT)
    return x, Axis(low, high, HEIGHT - BOTTOM, TOP, log)


def _series(number: int, line: Line, x: Axis, y: Axis, with_band: bool) -> Series:
    def places(values: Sequence[float]) -> Places:
        return [(x.place(s), y.place(v)) for s, v in zip(line.steps, values, strict=True)]

    spread = with_band and line.lows is not line.highs
    band = places(line.highs) + places(line.lows)[::-1] if spread else []
    return Series(number % COLORS, places(line.means), band)


def _note(curves: Mapping[int, Curve], log: bool) -> str:
    notes = ["logarithmic"] if log else []
    if any(len(curve.steps) > 2 * POINTS for curve in curves.values()):
        notes.append("means over a band from least to greatest" if len(curves) == 1 else "means")
    if left_out := sum(curve.left_out for curve in curves.values()):
        notes.append(f"{left_out} values that are not finite are left out")
    return "; ".join(notes)
