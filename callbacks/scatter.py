"""A scatter plot of two metrics as an SVG file: numbered points, and a legend of their names."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import NamedTuple

from callbacks.report_charts import Axis
from callbacks.report_page import render

WIDTH, HEIGHT = 640, 440  # of the plot with its axes; legend and notes are below
LEFT, RIGHT, TOP, BOTTOM = 74, 24, 20, 52  # margins
MARGIN = 0.12  # of the range, between the points and the frame
WRAP = 105  # letters in a line of notes
COLORS = ("#0b6e99", "#c4572a", "#3d7d3a", "#8a4fa3", "#a8811a", "#b3305c", "#4f5d75", "#2a8f85")
ARROWS = {(True, True): "↗", (True, False): "↘", (False, True): "↖", (False, False): "↙"}


class Point(NamedTuple):
    """A result in the plane of two metrics.

    series: Number of the line it belongs to; None for a single point, such as bicubic.
    label: Its name in the legend.
    at: Its two numbers.
    spread: Their deviations over seeds; 0 without any.
    """

    series: int | None
    label: str
    at: tuple[float, float]
    spread: tuple[float, float] = (0.0, 0.0)

    @property
    def color(self) -> str:
        """The colour of its series."""
        return "#555" if self.series is None else COLORS[self.series % len(COLORS)]


class Quantity(NamedTuple):
    """What an axis shows.

    name: Name of the metric.
    higher_is_better: Its direction; None if unknown.
    """

    name: str
    higher_is_better: bool | None

    def __str__(self) -> str:
        if self.higher_is_better is None:
            return self.name
        return f"{self.name} ({'higher' if self.higher_is_better else 'lower'} is better)"


def scatter(points: Sequence[Point], x: Quantity, y: Quantity, notes: Sequence[str]) -> str:
    """Draw points as an SVG file, with the better corner marked.

    Args:
        points: At least one; all numbers finite.
        x: The horizontal axis.
        y: The vertical axis.
        notes: Text below the plot, such as protocols.
    """
    across, up = axes(points)
    series = dict.fromkeys(p.series for p in points if p.series is not None)
    lines = [[p for p in points if p.series == number] for number in series]
    known = x.higher_is_better is not None and y.higher_is_better is not None
    return render(
        "scatter.svg.j2",
        width=WIDTH,
        height=HEIGHT,
        points=points,
        lines=[line for line in lines if len(line) > 1],
        x=x,
        y=y,
        across=across,
        up=up,
        better=ARROWS[bool(x.higher_is_better), bool(y.higher_is_better)] if known else "",
        notes=[line for note in notes for line in textwrap.wrap(note, WRAP)],
    )


def axes(points: Sequence[Point]) -> tuple[Axis, Axis]:
    """Return axes that hold all points with their deviations."""
    ends = ((LEFT, WIDTH - RIGHT), (HEIGHT - BOTTOM, TOP))
    made = []
    for axis, (start, end) in enumerate(ends):
        low = min(p.at[axis] - p.spread[axis] for p in points)
        high = max(p.at[axis] + p.spread[axis] for p in points)
        margin = MARGIN * (high - low) or 0.05 * abs(high) or 1.0  # one point has a range, too
        made.append(Axis(low - margin, high + margin, start, end))
    return made[0], made[1]
