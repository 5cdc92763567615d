"""A scatter plot of two metrics as a file of SVG."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import NamedTuple

from callbacks.markup import Attributes, Markup, element
from callbacks.report_charts import Axis, short, ticks
from callbacks.scatter_labels import Box, Label, place_labels

WIDTH, HEIGHT = 640.0, 440.0  # of the plot with its axes; notes are below
LEFT, RIGHT, TOP, BOTTOM = 74.0, 24.0, 20.0, 52.0  # margins
MARGIN = 0.12  # of the range, between the points and the frame
NOTE, WRAP = 14.0, 105  # height of a line of notes, and its letters
COLORS = ("#0b6e99", "#c4572a", "#3d7d3a", "#8a4fa3", "#a8811a", "#b3305c", "#4f5d75", "#2a8f85")
STYLE = (
    "text{font:12px sans-serif;fill:#333}.note{font-size:10px;fill:#666}"
    ".label{paint-order:stroke;stroke:#fff;stroke-width:3px}"  # readable across lines
    ".deviation{stroke-width:1.5}.grid{stroke:#ddd}.frame{fill:none;stroke:#888}.better{fill:#3d7d3a;font-weight:bold}"
)


class Point(NamedTuple):
    """A result in the plane of two metrics.

    series: Number of the line it is on; None for one that stands alone, such as bicubic.
    label: What is written beside it.
    at: Its two numbers.
    spread: Their deviations over seeds; 0 without any.
    """

    series: int | None
    label: str
    at: tuple[float, float]
    spread: tuple[float, float] = (0.0, 0.0)


class Quantity(NamedTuple):
    """What an axis shows.

    name: Of the metric.
    higher_is_better: Its direction; None where it is not known.
    """

    name: str
    higher_is_better: bool | None


def scatter(points: Sequence[Point], x: Quantity, y: Quantity, notes: Sequence[str]) -> str:
    """Draw points, with the better corner marked.

    A label without room beside its point is a number there, and stands below the plot.

    Args:
        points: At least one; all numbers finite.
        x: Of the horizontal axis.
        y: Of the vertical axis.
        notes: What stands below, such as protocols.
    """
    across, up = axes(points)
    labels = _labels(points, across, up, _corner(x, y))
    numbered = sorted(
        (label.number, point.label)
        for label, point in zip(labels, points, strict=True)
        if label.number is not None
    )
    listed = "; ".join(f"{number}:\N{NO-BREAK SPACE}{label}" for number, label in numbered)
    lines = [line for note in (listed, *notes) for line in textwrap.wrap(note, WRAP)]
    height = HEIGHT + NOTE * len(lines) + (8 if lines else 0)
    content = [
        element("style", None, Markup(STYLE)),
        element("rect", {"width": WIDTH, "height": height, "fill": "white"}),
        *_frame(across, up),
        *_names(x, y),
        *_better(x, y),
        *_lines(points, across, up),
        *(part for point in points for part in _drawn(point, across, up)),
        *(_text(*label.at, label.text, label.anchor, "label") for label in labels),
    ]
    for number, line in enumerate(lines):
        place: Attributes = {"class": "note", "x": 12.0, "y": HEIGHT + NOTE * number + 10}
        content.append(element("text", place, line))
    attributes: Attributes = {
        "xmlns": "http://www.w3.org/2000/svg",
        "viewBox": f"0 0 {WIDTH:g} {height:g}",
        "width": WIDTH,
        "height": height,
        "role": "img",
    }
    return element("svg", attributes, *content) + "\n"


def axes(points: Sequence[Point]) -> tuple[Axis, Axis]:
    """Axes that hold all points with their deviations."""
    ends = ((LEFT, WIDTH - RIGHT), (HEIGHT - BOTTOM, TOP))
    made = []
    for axis, (start, end) in enumerate(ends):
        low = min(p.at[axis] - p.spread[axis] for p in points)
        high = max(p.at[axis] + p.spread[axis] for p in points)
        margin = MARGIN * (high - low) or 0.05 * abs(high) or 1.0  # one point has a range, too
        made.append(Axis(low - margin, high + margin, start, end))
    return made[0], made[1]


def _frame(across: Axis, up: Axis) -> list[Markup]:
    parts = []
    for value in ticks(across.low, across.high, 6):
        at = round(across.place(value), 1)
        ends = {"x1": at, "x2": at, "y1": TOP, "y2": HEIGHT - BOTTOM}
        parts.append(element("line", {"class": "grid", **ends}))
        parts.append(_text(at, HEIGHT - BOTTOM + 16, short(value), "middle"))
    for value in ticks(up.low, up.high, 6):
        at = round(up.place(value), 1)
        ends = {"x1": LEFT, "x2": WIDTH - RIGHT, "y1": at, "y2": at}
        parts.append(element("line", {"class": "grid", **ends}))
        parts.append(_text(LEFT - 6, at + 4, short(value), "end"))
    size = {"width": WIDTH - LEFT - RIGHT, "height": HEIGHT - TOP - BOTTOM}
    return [*parts, element("rect", {"class": "frame", "x": LEFT, "y": TOP, **size})]


def _names(x: Quantity, y: Quantity) -> list[Markup]:
    middle = (LEFT + WIDTH - RIGHT) / 2, (TOP + HEIGHT - BOTTOM) / 2
    turned: Attributes = {
        "transform": f"translate(18 {middle[1]:g}) rotate(-90)",
        "text-anchor": "middle",
    }
    return [
        _text(middle[0], HEIGHT - 14, _named(x), "middle"),
        element("text", turned, _named(y)),
    ]


def _named(quantity: Quantity) -> str:
    if quantity.higher_is_better is None:
        return quantity.name
    return f"{quantity.name} ({'higher' if quantity.higher_is_better else 'lower'} is better)"


def _better(x: Quantity, y: Quantity) -> list[Markup]:
    if (corner := _corner(x, y)) is None:
        return []
    arrow = {(True, True): "↗", (True, False): "↘", (False, True): "↖", (False, False): "↙"}
    shown = f"better {arrow[bool(x.higher_is_better), bool(y.higher_is_better)]}"
    at, anchor = (corner.right, "end") if x.higher_is_better else (corner.left, "start")
    return [_text(at, corner.bottom - 4, shown, anchor, "better")]


def _corner(x: Quantity, y: Quantity) -> Box | None:
    """Where the better corner is named."""
    if x.higher_is_better is None or y.higher_is_better is None:
        return None
    left = WIDTH - RIGHT - 68 if x.higher_is_better else LEFT + 8
    top = TOP + 4 if y.higher_is_better else HEIGHT - BOTTOM - 20
    return Box(left, top, left + 60, top + 16)


def _lines(points: Sequence[Point], across: Axis, up: Axis) -> list[Markup]:
    parts = []
    for series in dict.fromkeys(p.series for p in points if p.series is not None):
        places = [p.at for p in points if p.series == series]
        path = " ".join(f"{across.place(a):.1f},{up.place(b):.1f}" for a, b in places)
        look: Attributes = {
            "points": path,
            "fill": "none",
            "stroke": _color(series),
            "stroke-opacity": 0.5,
        }
        if len(places) > 1:
            parts.append(element("polyline", look))
    return parts


def _drawn(point: Point, across: Axis, up: Axis) -> list[Markup]:
    (x, y), (dx, dy) = point.at, point.spread
    at, down, color = across.place(x), up.place(y), _color(point.series)
    bars = (
        {"x1": across.place(x - dx), "x2": across.place(x + dx), "y1": down, "y2": down},
        {"x1": at, "x2": at, "y1": up.place(y - dy), "y2": up.place(y + dy)},
    )
    parts = [
        element("line", {"class": "deviation", **bar, "stroke": color})
        for bar, deviation in zip(bars, (dx, dy), strict=True)
        if deviation > 0
    ]
    said = element("title", None, f"{point.label}: {x:.4f}, {y:.4f}")
    fill = color if point.series is not None else "white"
    dot: Attributes = {"cx": at, "cy": down, "r": 4.5, "fill": fill, "stroke": color}
    return [*parts, element("g", None, said, element("circle", dot))]


def _labels(points: Sequence[Point], across: Axis, up: Axis, corner: Box | None) -> list[Label]:
    places = [(across.place(point.at[0]), up.place(point.at[1])) for point in points]
    frame = Box(LEFT, TOP, WIDTH - RIGHT, HEIGHT - BOTTOM)
    taken = [corner] if corner else []
    return place_labels(places, [point.label for point in points], frame, taken)


def _color(series: int | None) -> str:
    return "#555" if series is None else COLORS[series % len(COLORS)]


def _text(x: float, y: float, text: str, anchor: str, kind: str | None = None) -> Markup:
    place: Attributes = {"x": round(x, 1), "y": round(y, 1), "text-anchor": anchor, "class": kind}
    return element("text", place, text)
