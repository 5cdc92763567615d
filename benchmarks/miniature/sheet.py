"""The image of the miniature: the same cars, a line a row, each pixel a square."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from benchmarks.miniature.callbacks import OUTPUTS
from benchmarks.miniature.table import Plan

SIDE, GAP, LABEL, HEAD, FONT = 96, 2, 190, 24, 13  # pixels
MOST = 10  # images a line
LARGEST = 300_000  # bytes
Line = tuple[str, list[Path]]


def draw(plan: Plan, path: Path) -> None:
    """Draw LR, the shown rows and HR of each task, for the first images by index.

    As many images stand in a line as the file may have bytes for.

    Args:
        plan: Its commands are done.
        path: The file.
    """
    groups = lines(plan)
    for count in range(MOST, 0, -1):
        content = io.BytesIO()
        sheet(groups, count).save(content, "PNG", optimize=True)
        if content.tell() <= LARGEST or count == 1:
            path.write_bytes(content.getvalue())
            return


def lines(plan: Plan) -> list[tuple[str, list[Line]]]:
    """Return the title of each task, with the label and files of each of its lines.

    Args:
        plan: Its commands are done.
    """
    found = []
    for name, task in plan.table.tasks.items():
        rows = [row for row in plan.rows if row.task == name and row.shown]
        if not rows:
            continue
        first = plan.run_of(rows[0].name) / OUTPUTS
        of_rows = [(row.label, _files(plan.run_of(row.name) / OUTPUTS / "0")) for row in rows]
        inputs = [("LR", _files(first / "lr"))] if task.bicubic else []
        found.append((task.title, [*inputs, *of_rows, ("HR", _files(first / "hr"))]))
    return found


def sheet(groups: Sequence[tuple[str, Sequence[Line]]], count: int) -> Image.Image:
    """Return groups of lines below one another.

    Args:
        groups: Titles, and labels and files of their lines.
        count: Images a line.
    """
    height = sum(HEAD + len(of) * (SIDE + GAP) for _, of in groups)
    paper = Image.new("RGB", (LABEL + count * (SIDE + GAP), height), "white")
    pen, font, top = ImageDraw.Draw(paper), ImageFont.load_default(FONT), 0
    for title, of_group in groups:
        pen.text((2, top + 4), title, "black", font)
        top += HEAD
        for label, files in of_group:
            pen.text((2, top + (SIDE - FONT) // 2), label, "black", font)
            for column, file in enumerate(files[:count]):
                with Image.open(file) as image:
                    large = image.convert("RGB").resize((SIDE, SIDE), Image.Resampling.NEAREST)
                paper.paste(large, (LABEL + column * (SIDE + GAP), top))
            top += SIDE + GAP
    return paper


def _files(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*.png"))[:MOST]
