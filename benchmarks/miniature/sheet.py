"""The pictures of a generator's miniature: samples, a line a row, and validations by steps."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from PIL import Image, ImageDraw, ImageFont

from benchmarks.miniature.generators import WATCHED, validations
from benchmarks.miniature.plan import Plan
from benchmarks.miniature.samples import folder_of, real_of
from callbacks.metrics.sets import find_images

COUNT, CLIPS = 14, 2  # samples a line
ZOOM, GAP, LABEL, FONT_SIZE = 3, 4, 170, 13  # pixels
PANEL, MARGIN, LINE = (440, 300), 56, 16
COLORS = ("#1b6ca8", "#d1495b", "#edae49", "#3f7d20", "#6a4c93", "#444444")
THOUSAND = "x 1000"
Points = Sequence[Sequence[float]]
Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


def draw(plan: Plan, path: Path) -> Path | None:
    """Draw samples of all rows, of clips all frames; beside that file curves of the trainings.

    Args:
        plan: Its commands are done.
        path: The file of the samples; that of the curves ends in ``_curves``.

    Returns:
        The file, or None where no row was measured.
    """
    if not plan.rows:
        return None
    seed = str(plan.seeds[0])
    lines = [(row.label, folder_of(plan.run_of(row.name), seed)) for row in plan.rows]
    lines.append(("real pictures", real_of(plan.run_of(plan.rows[0].name))))
    frames = getattr(plan.method, "frames", 1)
    count = COUNT if frames == 1 else CLIPS * frames
    sheet([(label, find_images([folder])[:count]) for label, folder in lines]).save(path)
    found = validations(plan)
    if any(found.values()):
        panels = [
            Panel(heading, {label: curves[heading] for label, curves in found.items() if curves})
            for heading in WATCHED
        ]
        chart(panels).save(path.with_name(f"{path.stem}_curves.png"), optimize=True)
    return path


def sheet(lines: Sequence[tuple[str, Sequence[Path]]]) -> Image.Image:
    """Pictures of one size, enlarged by repeating pixels, behind what each line is called."""
    with Image.open(lines[0][1][0]) as first:
        side = first.width * ZOOM
    columns = max(len(files) for _, files in lines)
    size = (LABEL + columns * (side + GAP), len(lines) * (side + GAP))
    paper, font = Image.new("RGB", size, "white"), ImageFont.load_default(FONT_SIZE)
    pen = ImageDraw.Draw(paper)
    for number, (label, files) in enumerate(lines):
        top = number * (side + GAP)
        pen.text((2, top + side // 2 - FONT_SIZE // 2), label, "black", font)
        for column, file in enumerate(files):
            with Image.open(file) as picture:
                large = picture.convert("RGB").resize((side, side), Image.Resampling.NEAREST)
            paper.paste(large, (LABEL + column * (side + GAP), top))
    return paper


class Panel(NamedTuple):
    """Curves of one metric: points of (step, value) by label."""

    heading: str
    curves: dict[str, Points]


def chart(panels: Sequence[Panel]) -> Image.Image:
    """Curves side by side, steps on a logarithmic axis, with a legend below."""
    width, height = PANEL
    legend = LINE * max(-(-len(panel.curves) // 2) for panel in panels)
    paper = Image.new("RGB", (width * len(panels), height + legend), "white")
    font = ImageFont.load_default(FONT_SIZE)
    pen = ImageDraw.Draw(paper)
    for number, panel in enumerate(panels):
        _panel(pen, font, panel, number * width)
    return paper


def _panel(pen: ImageDraw.ImageDraw, font: Font, panel: Panel, x: int) -> None:
    width, height = PANEL
    factor = 1000 if panel.heading.endswith(THOUSAND) else 1
    points = [(s, factor * v) for curve in panel.curves.values() for s, v in curve if s > 0]
    if not points:
        return
    steps, values = zip(*points, strict=True)
    left, right, top, bottom = x + MARGIN, x + width - 14, 30, height - 34
    ends = (math.log(min(steps)), math.log(max(max(steps), min(steps) + 1)))
    low, high = min(values), max(max(values), min(values) + 1e-9)

    def place(step: float, value: float) -> tuple[float, float]:
        across = (math.log(step) - ends[0]) / (ends[1] - ends[0])
        return left + across * (right - left), bottom - (value - low) / (high - low) * (
            bottom - top
        )

    pen.text((left, 6), f"{panel.heading}, by steps of training", "black", font)
    pen.line([(left, top), (left, bottom), (right, bottom)], "black")
    for value, y in ((low, bottom), (high, top)):
        pen.text((x + 4, y - 8), f"{value:.3g}", "black", font)
    for step, anchor in ((min(steps), left), (max(steps), right - 30)):
        pen.text((anchor, bottom + 4), f"{step:g}", "black", font)
    for number, (label, curve) in enumerate(panel.curves.items()):
        color = COLORS[number % len(COLORS)]
        line = [place(step, factor * value) for step, value in curve if step > 0]
        pen.line(line, color, 2)
        for px, py in line:
            pen.ellipse([px - 2, py - 2, px + 2, py + 2], color)
        row, column = divmod(number, 2)
        at = (left + column * (right - left) / 2, height - 8 + LINE * row)
        pen.text(at, label, color, font)
