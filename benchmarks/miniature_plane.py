"""Perception against distortion: where each row of a miniature lies.

Blau and Michaeli, "The perception-distortion tradeoff" (CVPR 2018, arXiv 1711.06077): what gains in
one has to lose in the other once it is good at both, so a single number ranks nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from PIL import Image, ImageDraw, ImageFont

PANEL = (520, 400)
MARGIN, TOP, FOOT, FONT_SIZE, DOT = 60, 34, 46, 13, 4  # pixels
COLOR = "#1b6ca8"


class Plane(NamedTuple):
    """Points of one plane.

    across: Name of the distortion; right is better.
    up: Name of the perception; lower numbers are better, and are drawn above.
    points: (distortion, perception) by label.
    """

    across: str
    up: str
    points: Mapping[str, tuple[float, float]]


def chart(planes: Sequence[Plane]) -> Image.Image:
    """Planes side by side: the best corner is the upper right one.

    Args:
        planes: With at least one point each.
    """
    paper = Image.new("RGB", (PANEL[0] * len(planes), PANEL[1]), "white")
    pen, font = ImageDraw.Draw(paper), ImageFont.load_default(FONT_SIZE)
    for number, plane in enumerate(planes):
        _panel(pen, font, plane, number * PANEL[0])
    return paper


def _panel(
    pen: ImageDraw.ImageDraw,
    font: ImageFont.FreeTypeFont | ImageFont.ImageFont,
    plane: Plane,
    x: int,
) -> None:
    left, right = x + MARGIN, x + PANEL[0] - MARGIN
    top, bottom = TOP, PANEL[1] - FOOT
    ends = [(min(values), max(values)) for values in zip(*plane.points.values(), strict=True)]
    (low, high), (best, worst) = [(a, b if b > a else a + 1) for a, b in ends]
    pen.text((left, 8), f"{plane.up} (better above)", "black", font)
    pen.text((left, bottom + 26), f"{plane.across} (better to the right)", "black", font)
    pen.line([(left - 8, top), (left - 8, bottom + 8), (right, bottom + 8)], "black")
    for value, y in ((best, top), (worst, bottom)):
        pen.text((x + 4, y - 8), f"{value:.3g}", "black", font)
    for value, place in ((low, left), (high, right - 30)):
        pen.text((place, bottom + 10), f"{value:.3g}", "black", font)
    dots = {
        label: (
            left + (distortion - low) / (high - low) * (right - left),
            top + (perception - best) / (worst - best) * (bottom - top),
        )
        for label, (distortion, perception) in plane.points.items()
    }
    # Left, right and top of what labels must not cover: the dots, then one another.
    taken = [(px - DOT, px + DOT, py - FONT_SIZE / 2) for px, py in dots.values()]
    for label, (px, py) in sorted(dots.items(), key=lambda dot: dot[1][1]):
        pen.ellipse([px - DOT, py - DOT, px + DOT, py + DOT], COLOR)
        length = pen.textlength(label, font)
        at = px + 8 if px + 8 + length < x + PANEL[0] else px - 8 - length
        y = py - FONT_SIZE / 2
        while any(at < b and at + length > a and abs(y - t) < FONT_SIZE for a, b, t in taken):
            y += 2
        taken.append((at, at + length, y))
        pen.text((at, y), label, "black", font)
