"""A table over runs, as a paper prints it: ``compare --format markdown | latex | csv``.

A column is a dataset, scale and metric; a row is a run. Beside the number of each run but the first
is its difference to that of the first, with half of the interval that ``compare`` gives it. Bold
are the best number, and those that it is not shown to be better than. All of a column have the
first run's protocol, and other numbers are left out.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

from callbacks.results import compare

Format = Literal["markdown", "latex", "csv"]
FORMATS: tuple[Format, ...] = ("markdown", "latex", "csv")
SAID = (
    "In brackets the difference to the first run, ± half of its 95 % interval over the images, of "
    "these weights: another training differs, too. Bold: the best, and what is not shown to differ "
    "from it. n: the images that all runs have, with a finite number."
)
BOLD = {"markdown": "**{}**", "latex": r"\textbf{{{}}}"}
PLUS_MINUS = {"markdown": "±", "latex": r"\pm"}
ARROWS = {True: " ↑", False: " ↓", None: ""}  # to the better direction
DIGITS = {"psnr": 2, "psnr_rgb": 2, "niqe": 2, "fid": 2}
SPECIAL = "&%$#_{}"  # characters of LaTeX


class Cell(NamedTuple):
    """A number of a run.

    value: Its mean over the images that all runs have, or that of the whole set.
    n: Number of these images.
    more: How far it is above that of the first run; None for the first run itself.
    reach: Half of the interval of this; None where there is none.
    bold: Whether no other run is shown to have a better one.
    """

    value: float
    n: int
    more: float | None = None
    reach: float | None = None
    bold: bool = False


Column = tuple[str, str, list[Cell | None]]  # heading, arrow to the better, a cell for each run


def columns(runs: Sequence[compare.RunNumbers], selection: compare.Selection) -> list[Column]:
    """Return the columns of all numbers of the first run, over the images that all runs have.

    Args:
        runs: The runs.
        selection: Which numbers.

    Raises:
        ValueError: If a run has several checkpoints with one number, or nothing that is asked for.
    """
    table: list[Column] = []
    for first, of_runs in compare.on_common_images(runs, selection):
        result = of_runs[0].results[0]
        cells: list[Cell | None] = [Cell(result["value"], result["n"])]
        cells += [_cell(of_runs[0], run) for run in of_runs[1:]]
        higher_is_better = first.get("higher_is_better")
        if higher_is_better is not None:
            bold = _not_beaten(of_runs, cells, higher_is_better)
            cells = [cell and cell._replace(bold=n in bold) for n, cell in enumerate(cells)]
        heading = f"{first['metric']}, {first['dataset']} x{first['scale']:g}"
        table.append((heading, ARROWS[higher_is_better], cells))
    return table


def _not_beaten(
    runs: Sequence[compare.RunNumbers], cells: Sequence[Cell | None], higher_is_better: bool
) -> set[int]:
    """Return the numbers of the best run, and of those that are not shown to differ from it."""
    values = {n: cell.value for n, cell in enumerate(cells) if cell and math.isfinite(cell.value)}
    counts = {cell.n for n, cell in enumerate(cells) if cell and n in values}
    # A number of a whole set, such as FID, is comparable only with one of as many images.
    if len(values) < 2 or len(counts) > 1:
        return set()
    best = (max if higher_is_better else min)(values, key=lambda n: values[n])
    not_beaten = {best}
    for n in values:
        ((compared,), _) = compare.compare(runs[best], runs[n])
        if compared.verdict == compare.NOTHING:
            not_beaten.add(n)
    return not_beaten


def _cell(first: compare.RunNumbers, run: compare.RunNumbers) -> Cell | None:
    if not run.results:
        return None
    ((compared,), _) = compare.compare(first, run)
    value = compared.b["value"]
    difference = value - compared.a["value"]
    if compared.interval is None:
        return Cell(value, compared.b["n"], difference)
    low, high = compared.interval
    return Cell(value, compared.b["n"], difference, (high - low) / 2)


def grid(names: Sequence[str], table: Sequence[Column], form: Format) -> str:
    """Return a table as text.

    Args:
        names: Of the runs.
        table: What ``columns`` returned.
        form: How it is written; CSV has a row for each number, without bold.
    """
    if form == "csv":
        return _csv(names, table)
    headings = [""]
    for heading, arrow, cells in table:
        counts = dict.fromkeys(str(cell.n) for cell in cells if cell)
        headings.append(f"{heading}{arrow} (n = {'/'.join(counts)})")
    rows = []
    for number, name in enumerate(names):
        texts = [_text(heading, cells[number], form) for heading, _, cells in table]
        rows.append([name, *texts])
    return _latex(headings, rows) if form == "latex" else _markdown(headings, rows)


def _markdown(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    rule = ["---", *["---:"] * (len(headings) - 1)]
    lines = [f"| {' | '.join(row)} |" for row in (headings, rule, *rows)]
    return "\n".join([*lines, "", SAID]) + "\n"


def _latex(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [
        f"% {SAID}",
        r"% \usepackage{booktabs}",
        rf"\begin{{tabular}}{{l{'r' * (len(headings) - 1)}}}",
        r"\toprule",
        " & ".join(map(_escaped, headings)) + r" \\",
        r"\midrule",
    ]
    for name, *texts in rows:
        lines.append(" & ".join([_escaped(name), *texts]) + r" \\")
    lines += [r"\bottomrule", r"\end{tabular}"]
    return "\n".join(lines) + "\n"


def _text(heading: str, cell: Cell | None, form: Format) -> str:
    if cell is None:
        return "-"
    digits = DIGITS.get(heading.partition(",")[0], 4)
    text = f"{cell.value:.{digits}f}"
    if cell.bold:
        text = BOLD[form].format(text)
    if cell.more is None or not math.isfinite(cell.more):
        return text
    difference = f"{cell.more:+.{digits}f}"
    if cell.reach is not None:
        difference += f" {PLUS_MINUS[form]} {cell.reach:.{digits}f}"
    return f"{text} ({difference})" if form == "markdown" else f"{text} (${difference}$)"


def _escaped(text: str) -> str:
    for letter in SPECIAL:
        text = text.replace(letter, rf"\{letter}")
    return text.replace("↑", r"$\uparrow$").replace("↓", r"$\downarrow$")


def _csv(names: Sequence[str], table: Sequence[Column]) -> str:
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(["run", "number", "value", "difference", "half_interval", "n"])
    for heading, _, cells in table:
        for name, cell in zip(names, cells, strict=True):
            if cell:
                writer.writerow([name, heading, cell.value, cell.more, cell.reach, cell.n])
    return buffer.getvalue()
