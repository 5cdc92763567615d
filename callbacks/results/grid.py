"""A table over runs, as a paper prints it: ``compare --format markdown | latex | csv``.

A column is a dataset, scale and metric; a row is a run. A number is the mean over images with half
of its 95 % interval over them (``mean_interval``); the best one is bold. All of a column have the
first run's protocol, and other numbers are left out.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import numpy as np

from callbacks.results import compare
from callbacks.results.files import identity

Format = Literal["markdown", "latex", "csv"]
FORMATS: tuple[Format, ...] = ("markdown", "latex", "csv")
SAID = "± is half of the 95 % interval; whether runs differ: compare them without --format."
BOLD = {"markdown": "**{}**", "latex": r"\textbf{{{}}}"}
DIGITS = {"psnr": 2, "psnr_rgb": 2, "niqe": 2, "fid": 2}
SPECIAL = "&%$#_{}"  # characters of LaTeX


class Cell(NamedTuple):
    """A number of a run.

    value: Its mean over images, or that of the whole set.
    reach: Half of its interval; None where there is none.
    n: Number of images.
    best: Whether no other run has a better one.
    """

    value: float
    reach: float | None
    n: int
    best: bool


Column = tuple[str, str, list[Cell | None]]  # heading, arrow to the better, a cell for each run


def columns(runs: Sequence[compare.RunNumbers], asked: compare.Selection) -> list[Column]:
    """Return the columns of all numbers of the first run.

    Args:
        runs: The runs.
        asked: Which numbers.

    Raises:
        ValueError: If the first run has several checkpoints with one number.
    """
    images = [run.images() for run in runs]
    found: list[Column] = []
    for first in compare.results(runs[0], asked):
        results = [first, *(compare.counterpart(first, run)[0] for run in runs[1:])]
        cells = [
            None if result is None else _cell(result, of.get(identity(result), []))
            for result, of in zip(results, images, strict=True)
        ]
        higher = first.get("higher_is_better")
        sign = 0 if higher is None else 1 if higher else -1
        values = [sign * cell.value for cell in cells if cell and math.isfinite(cell.value)]
        top = max(values, default=math.nan) if sign and len(values) > 1 else math.nan
        marked = [cell and cell._replace(best=sign * cell.value == top) for cell in cells]
        head = f"{first['metric']}, {first['dataset']} x{first['scale']:g}"
        found.append((head, ("", " ↑", " ↓")[sign], marked))
    return found


def _cell(result: Any, images: list[Any]) -> Cell:
    values = np.array([*compare.over_seeds(images).values()] if images else [])
    reach = None
    if len(values) >= compare.FEWEST and np.isfinite(values).all():
        low, high = compare.mean_interval(values)
        reach = (high - low) / 2
    return Cell(result["value"], reach, result["n"], False)


def grid(names: Sequence[str], table: Sequence[Column], form: Format) -> str:
    """Return a table as text.

    Args:
        names: Of the runs.
        table: What ``columns`` returned.
        form: How it is written; CSV has a row for each number, without bold.
    """
    if form == "csv":
        return _csv(names, table)
    escape = _escaped if form == "latex" else str
    heads = [escape(f"{head}{arrow} (n = {_count(cells)})") for head, arrow, cells in table]
    rows = [
        [escape(name), *(_shown(head, cells[number], form) for head, _, cells in table)]
        for number, name in enumerate(names)
    ]
    if form == "latex":
        head, *body = (" & ".join(row) + r" \\" for row in (["", *heads], *rows))
        lines = [rf"\begin{{tabular}}{{l{'r' * len(heads)}}}", r"\toprule", head, r"\midrule"]
        return "\n".join([f"% {SAID}", *lines, *body, r"\bottomrule", r"\end{tabular}"]) + "\n"
    rule = ["---", *["---:"] * len(heads)]
    lines = [f"| {' | '.join(row)} |" for row in (["", *heads], rule, *rows)]
    return "\n".join([*lines, "", SAID]) + "\n"


def _count(cells: Sequence[Cell | None]) -> str:
    return "/".join(dict.fromkeys(str(cell.n) for cell in cells if cell))


def _shown(head: str, cell: Cell | None, form: Format) -> str:
    if cell is None:
        return "-"
    digits = DIGITS.get(head.partition(",")[0], 4)
    value = f"{cell.value:.{digits}f}"
    value = BOLD[form].format(value) if cell.best else value
    between = " ± " if form == "markdown" else r" $\pm$ "
    return value if cell.reach is None else f"{value}{between}{cell.reach:.{digits}f}"


def _escaped(text: str) -> str:
    text = "".join(rf"\{letter}" if letter in SPECIAL else letter for letter in text)
    return text.replace("↑", r"$\uparrow$").replace("↓", r"$\downarrow$")


def _csv(names: Sequence[str], table: Sequence[Column]) -> str:
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(["run", "number", "value", "half_interval", "n"])
    for head, _, cells in table:
        for name, cell in zip(names, cells, strict=True):
            if cell:
                writer.writerow([name, head, cell.value, cell.reach, cell.n])
    return buffer.getvalue()
