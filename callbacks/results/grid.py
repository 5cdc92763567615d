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


def columns(runs: Sequence[compare.RunNumbers], asked: compare.Selection) -> list[Column]:
    """Return the columns of all numbers of the first run, over the images that all runs have.

    Args:
        runs: The runs.
        asked: Which numbers.

    Raises:
        ValueError: If a run has several checkpoints with one number, or nothing that is asked for.
    """
    found: list[Column] = []
    for first, alone in compare.on_common_images(runs, asked):
        own = alone[0].results[0]
        cells = [Cell(own["value"], own["n"]), *(_cell(alone[0], run) for run in alone[1:])]
        higher = first.get("higher_is_better")
        sign = 0 if higher is None else 1 if higher else -1
        known = {n: cell for n, cell in enumerate(cells) if cell and math.isfinite(cell.value)}
        # A number of a whole set, such as FID, is comparable only with one of as many images.
        if sign and len(known) > 1 and len({cell.n for cell in known.values()}) == 1:
            best = max(known, key=lambda n: sign * known[n].value)
            against = {n: compare.compare(alone[best], alone[n])[0][0] for n in known if n != best}
            bold = {best, *(n for n, c in against.items() if c.verdict == compare.NOTHING)}
            cells = [cell and cell._replace(bold=n in bold) for n, cell in enumerate(cells)]
        head = f"{first['metric']}, {first['dataset']} x{first['scale']:g}"
        found.append((head, ("", " ↑", " ↓")[sign], cells))
    return found


def _cell(first: compare.RunNumbers, run: compare.RunNumbers) -> Cell | None:
    if not run.results:
        return None
    ((found,), _) = compare.compare(first, run)
    reach = None if found.interval is None else (found.interval[1] - found.interval[0]) / 2
    value = found.b["value"]
    return Cell(value, found.b["n"], value - found.a["value"], reach)


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
        body = [line.replace("±", r"\pm") for line in body]
        lines = [rf"\begin{{tabular}}{{l{'r' * len(heads)}}}", r"\toprule", head, r"\midrule"]
        notes = [f"% {SAID}", r"% \usepackage{booktabs}"]
        return "\n".join([*notes, *lines, *body, r"\bottomrule", r"\end{tabular}"]) + "\n"
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
    value = BOLD[form].format(value) if cell.bold else value
    if cell.more is None or not math.isfinite(cell.more):
        return value
    more = f"{cell.more:+.{digits}f}"
    more += "" if cell.reach is None else f" ± {cell.reach:.{digits}f}"
    return f"{value} ({more})" if form == "markdown" else rf"{value} (${more}$)"


def _escaped(text: str) -> str:
    text = "".join(rf"\{letter}" if letter in SPECIAL else letter for letter in text)
    return text.replace("↑", r"$\uparrow$").replace("↓", r"$\downarrow$")


def _csv(names: Sequence[str], table: Sequence[Column]) -> str:
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(["run", "number", "value", "difference", "half_interval", "n"])
    for head, _, cells in table:
        for name, cell in zip(names, cells, strict=True):
            if cell:
                writer.writerow([name, head, cell.value, cell.more, cell.reach, cell.n])
    return buffer.getvalue()
