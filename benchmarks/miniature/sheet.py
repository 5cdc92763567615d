"""The image of the miniature: the same cars, a line a row, each pixel a square."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from benchmarks.miniature.callbacks import OUTPUTS
from benchmarks.miniature.table import Plan

SIDE, GAP, LABEL, HEAD, FONT = 96, 2, 190, 24, 13  # pixels
COUNT = 8  # images a line
Line = tuple[str, list[Path]]


def draw(plan: Plan, whole: Path, front: Path) -> None:
    """Draw LR, rows and HR of each task, for the first images by index, as lossless WebP.

    Args:
        plan: Its commands are done.
        whole: The file with all shown rows.
        front: The file with the table's ``front`` rows, which is not written if one was not asked
            for.
    """
    shown = {row.name for row in plan.rows if row.shown}
    sheet(lines(plan, shown)).save(whole, lossless=True)
    of_front = set(plan.table.front)
    if of_front and of_front.issubset(row.name for row in plan.rows):
        sheet(lines(plan, of_front)).save(front, lossless=True)


def lines(plan: Plan, names: Collection[str]) -> list[tuple[str, list[Line]]]:
    """Return the title of each task, with the label and files of each of its lines.

    Args:
        plan: Its commands are done.
        names: The rows.
    """
    found = []
    for name, task in plan.table.tasks.items():
        rows = [row for row in plan.rows if row.task == name and row.name in names]
        if not rows:
            continue
        first = plan.run_of(rows[0].name) / OUTPUTS
        of_rows = [(row.label, _files(plan.run_of(row.name) / OUTPUTS / "0")) for row in rows]
        inputs = [("LR", _files(first / "lr"))] if task.bicubic else []
        found.append((task.title, [*inputs, *of_rows, ("HR", _files(first / "hr"))]))
    return found


def sheet(groups: Sequence[tuple[str, Sequence[Line]]], side: int = SIDE) -> Image.Image:
    """Return groups of lines below one another.

    Args:
        groups: The title of each group, and the label and files of each of its lines. The first
            ``COUNT`` files of a line are shown.
        side: Side of an image in pixels.
    """
    step = side + GAP
    columns = max(len(files[:COUNT]) for _, of in groups for _, files in of)
    height = sum(HEAD + len(of) * step for _, of in groups)
    paper = Image.new("RGB", (LABEL + columns * step, height), "white")
    pen, font, top = ImageDraw.Draw(paper), ImageFont.load_default(FONT), 0
    for title, of_group in groups:
        pen.text((2, top + 4), title, "black", font)
        top += HEAD
        for label, files in of_group:
            pen.text((2, top + (side - FONT) // 2), label, "black", font)
            for column, file in enumerate(files[:COUNT]):
                with Image.open(file) as image:
                    large = image.convert("RGB").resize((side, side), Image.Resampling.NEAREST)
                paper.paste(large, (LABEL + column * step, top))
            top += step
    return paper


def _files(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*.png"))
