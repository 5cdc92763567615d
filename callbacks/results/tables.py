"""Tables of results: headings and rows of text, made of numbers, and how they are printed."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from callbacks.evaluation import MetricProtocol
from callbacks.results.compare import (
    NOTHING,
    Comparison,
    Measured,
    Run,
    Selection,
    on_common_images,
    paired,
    protocol_of,
)
from callbacks.results.rows import Row, of_datasets

Cells = list[list[str]]  # the headings, then the rows
TEXTS = ("", "dataset", "metric", "checkpoint")  # headings of columns without numbers
DIGITS = {"psnr": 2, "psnr_rgb": 2, "niqe": 2, "fid": 2}
ARROWS = {True: " ↑", False: " ↓", None: ""}  # to the better direction
SPECIAL = "&%$#_{}"  # characters of LaTeX
WEIGHTS = "Of these weights, on these images: another training, by another seed, differs, too."
OVER_RUNS = (
    "In brackets the difference to the first run, ± half of its 95 % interval over the images, of "
    "these weights: another training differs, too. Bold: the best, and what is not shown to differ "
    "from it. n: the images that all runs have, with a finite number."
)


# -------------------------------------------------------------------------------------- of one run


def of_run(rows: Sequence[Row]) -> tuple[Cells, list[str]]:
    """Return the table of one run: a row for each dataset and checkpoint, a column for each metric.

    Numbers of different protocols are in different columns.

    Returns:
        The cells, and a note for each column: its protocol.
    """
    numbers = of_datasets(rows)
    protocols: dict[str, list[MetricProtocol]] = {}
    for row in numbers:
        of_metric = protocols.setdefault(row.metric, [])
        if row.protocol not in of_metric:
            of_metric.append(row.protocol)
    columns = {}
    for metric, of_metric in protocols.items():
        for number, protocol in enumerate(of_metric, start=1):
            heading = metric if len(of_metric) == 1 else f"{metric} ({number})"
            columns[heading] = (metric, protocol)
    cells = [["dataset", "scale", *columns, "n", "checkpoint"]]
    for place in dict.fromkeys(row.place for row in numbers):
        here = [row for row in numbers if row.place == place]
        values = []
        for column in columns.values():
            shown = [_value(row) for row in here if (row.metric, row.protocol) == column]
            values.append(shown[0] if shown else "-")
        # They differ for numbers without a value of each image.
        counts = dict.fromkeys(_count(row) for row in here)
        dataset, scale, checkpoint = place
        cells.append([dataset, f"x{scale:g}", *values, "/".join(counts), checkpoint or "-"])
    notes = [f"{heading}: {described(protocol)}" for heading, (_, protocol) in columns.items()]
    return cells, notes


def described(protocol: Mapping[str, Any]) -> str:
    """Return a protocol in one line, as ``color y, border 4, ...``."""
    return ", ".join(f"{key} {value}" for key, value in protocol.items())


def _value(row: Row) -> str:
    """Format a number, with its deviation over seeds if there are several."""
    return f"{row.value:.4f}" if row.std is None else f"{row.value:.4f} ± {row.std:.4f}"


def _count(row: Row) -> str:
    """Format the number of images, and how many of them have a finite number if not all have."""
    return f"{row.n - row.not_finite} of {row.n}" if row.not_finite else str(row.n)


# ------------------------------------------------------------------------------------- of two runs


def of_pair(comparisons: Sequence[Comparison]) -> tuple[Cells, list[str]]:
    """Return the table of two runs, a row for each number.

    Returns:
        The cells, and as notes the protocols and what is to be said of single numbers.
    """
    cells = [["dataset", "scale", "metric", "n", "A", "B", "A - B", "95 % interval", ""]]
    protocols = []
    remarks = []
    for a, b, interval, verdict, notes in comparisons:
        count = str(a.n) if a.n == b.n else f"{a.n}/{b.n}"
        difference = a.value - b.value
        shown = "-" if math.isnan(difference) else _signed(difference)
        ends = "-"
        if interval is not None:
            low, high = interval
            ends = f"{_signed(low)} to {_signed(high)}"
        place = [a.dataset, f"x{a.scale:g}", a.metric]
        numbers = [count, _value(a), _value(b), shown, ends]
        cells.append([*place, *numbers, verdict])
        protocols.append(f"{a.metric}: {described(protocol_of(a))}")
        remarks += [f"{a.title}: {note}" for note in notes]
    return cells, [*dict.fromkeys(protocols), *remarks, WEIGHTS]


def _signed(value: float) -> str:
    """Format a difference with its sign: four decimals, or two digits of a small one."""
    return f"{value:+.4f}" if value == 0 or abs(value) >= 0.001 else f"{value:+.2g}"


# ----------------------------------------------------------------------------------- of many runs


def of_runs(runs: Sequence[Run], selection: Selection) -> tuple[Cells, list[str]]:
    """Return the table of several runs: a row for each, a column for each number of the first.

    A column is over the images that all runs have, by the protocol of the first run.

    Raises:
        ValueError: If a run has several checkpoints with one number, or nothing that is asked for.
    """
    cells = [["", *(run.name for run in runs)]]  # with a line for each column, until the end
    for first in runs[0].selected(selection):
        others = []
        for run in runs[1:]:
            measured_there, _reason = run.counterpart(first)
            others.append(measured_there)
        measured = on_common_images([first, *others])
        counts = dict.fromkeys(str(each.number.n) for each in measured if each)
        number = first.number
        arrow = ARROWS[number.higher_is_better]
        heading = f"{number.metric}, {number.dataset} x{number.scale:g}{arrow}"
        cells.append([f"{heading} (n = {'/'.join(counts)})", *_column(measured)])
    return [list(row) for row in zip(*cells, strict=True)], [OVER_RUNS]


def _column(measured: Sequence[Measured | None]) -> list[str]:
    """Return the cells of one number, in Markdown: value, and difference to the first run."""
    first = measured[0]
    best = _not_beaten([each for each in measured if each])
    texts = []
    for each in measured:
        if each is None or first is None:
            texts.append("-")
            continue
        digits = DIGITS.get(each.number.metric, 4)
        text = f"{each.number.value:.{digits}f}"
        if each in best:
            text = f"**{text}**"
        difference = each.number.value - first.number.value
        if each is not first and math.isfinite(difference):
            shown = f"{difference:+.{digits}f}"
            interval = paired(first, each).interval
            if interval is not None:
                low, high = interval
                shown += f" ± {(high - low) / 2:.{digits}f}"
            text += f" ({shown})"
        texts.append(text)
    return texts


def _not_beaten(measured: Sequence[Measured]) -> list[Measured]:
    """Return the best, and those that are not shown to differ from it."""
    finite = [each for each in measured if math.isfinite(each.number.value)]
    higher_is_better = measured[0].number.higher_is_better
    # A number of a whole set, such as FID, is comparable only with one of as many images.
    if higher_is_better is None or len(finite) < 2 or len({each.number.n for each in finite}) > 1:
        return []
    find = max if higher_is_better else min
    best = find(finite, key=lambda each: each.number.value)
    alike = [each for each in finite if paired(best, each).verdict == NOTHING]
    return [best, *alike]


# ----------------------------------------------------------------------------------- how printed


def show(cells: Cells, notes: Sequence[str], title: str = "") -> None:
    """Print a table with the notes below; a narrow window breaks its lines, not its cells."""
    caption = Text("\n".join(notes))
    table = Table(title=Text(title), title_justify="left", caption=caption, caption_justify="left")
    headings, *rows = cells
    for heading in headings:
        table.add_column(heading, justify="left" if heading in TEXTS else "right", no_wrap=True)
    for row in rows:
        table.add_row(*map(Text, row))
    console = Console()
    unlimited = console.options.update(width=10_000)  # or the width would be the window's
    needed = console.measure(table, options=unlimited).maximum
    Console(width=max(console.width, needed)).print(table)


def as_markdown(cells: Cells, notes: Sequence[str]) -> str:
    """Return a table in Markdown, with the notes below."""
    headings, *rows = cells
    rule = ["---" if heading in TEXTS else "---:" for heading in headings]
    lines = [f"| {' | '.join(row)} |" for row in (headings, rule, *rows)]
    return "\n".join([*lines, "", *(f"- {note}" for note in notes)]) + "\n"


def as_latex(cells: Cells, notes: Sequence[str]) -> str:
    """Return a table in LaTeX, with the notes above."""
    headings, *rows = cells
    lines = [
        *(f"% {note}" for note in notes),
        r"% \usepackage{booktabs}",
        rf"\begin{{tabular}}{{l{'r' * (len(headings) - 1)}}}",
        r"\toprule",
        " & ".join(map(_in_latex, headings)) + r" \\",
        r"\midrule",
        *(" & ".join(map(_in_latex, row)) + r" \\" for row in rows),
        r"\bottomrule",
        r"\end{tabular}",
    ]
    return "\n".join(lines) + "\n"


def _in_latex(text: str) -> str:
    """Return the text of a cell in Markdown, in LaTeX."""
    for letter in SPECIAL:
        text = text.replace(letter, rf"\{letter}")
    text = re.sub(r"\*\*(.+?)\*\*", r"\\textbf{\1}", text)
    text = re.sub(r"\(([+-].+?)\)", r"($\1$)", text)  # a difference
    return text.replace("±", r"\pm").replace("↑", r"$\uparrow$").replace("↓", r"$\downarrow$")
