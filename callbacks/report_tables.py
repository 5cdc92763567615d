"""Tables of a report: numbers, one protocol a column, and shares of time."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from callbacks.markup import Markup, element
from callbacks.report_charts import COLORS
from callbacks.report_runs import Run
from callbacks.results_file import Result, column_of, columns, counts_of, describe, shown_value

CONTROL = "bicubic"  # the checkpoint of a metric's control
SHARE = "throughput/share_"  # scalars of callbacks/throughput.py


class Row(NamedTuple):
    """What numbers share that stand in one row; ``run`` is its number, None for a control."""

    dataset: str
    scale: float
    run: int | None
    checkpoint: str | None


def numbers(runs: Sequence[Run]) -> list[Markup]:
    """A table of all results, and below it the protocol of each column."""
    results = [result for run in runs for result in run.results]
    if not results:
        text = "No numbers yet: validate and test write results.json."
        return [element("p", {"class": "muted"}, text)]
    headings = columns(results)
    names = [f"{heading}{_arrow(c, results)}" for c, (heading, _) in headings.items()]
    first = ["dataset", "scale", *(["run"] if len(runs) > 1 else []), "weights"]
    head = [element("th", {"scope": "col"}, name) for name in first]
    head += [element("th", {"scope": "col", "class": "number"}, n) for n in [*names, "n"]]
    rows = _rows(runs)
    body = [_row(row, rows[row], headings, runs) for row in sorted(rows, key=_order)]
    table = element(
        "table",
        None,
        element("thead", None, element("tr", None, *head)),
        element("tbody", None, *body),
    )
    return [_scrolling(table), *_protocols(results), *_seeds(results)]


def shares(runs: Sequence[Run]) -> Markup | None:
    """Bars of the scalars ``throughput/share_...``, which are of a whole run; None without."""
    rows = []
    tags = dict.fromkeys(tag for run in runs for tag in run.curves if tag.startswith(SHARE))
    for tag in tags:
        for number, run in enumerate(runs):
            if tag in run.curves and (values := run.curves[tag].values):
                name = run.name if len(runs) > 1 else ""
                rows.append(_share(number, name, tag.removeprefix(SHARE), values[-1]))
    return _scrolling(element("table", {"class": "shares"}, *rows)) if rows else None


def _arrow(column: str, results: list[Result]) -> str:
    """Which way is better, where the file says so."""
    found = next(r for r in results if column_of(r) == column).get("higher_is_better")
    return "" if found is None else " ↑" if found else " ↓"


def _rows(runs: Sequence[Run]) -> dict[Row, dict[str, Result]]:
    """Numbers by row and column. Controls that runs agree on have a row of their own, once."""
    controls: dict[tuple[str, float, str], set[float]] = {}
    for run in runs:
        for r in run.results:
            if r["checkpoint"] == CONTROL:
                key = (r["dataset"], r["scale"], column_of(r))
                controls.setdefault(key, set()).add(round(r["value"], 4))
    rows: dict[Row, dict[str, Result]] = {}
    for number, run in enumerate(runs):
        for r in run.results:
            place = (r["dataset"], r["scale"])
            agreed = r["checkpoint"] == CONTROL and len(controls[(*place, column_of(r))]) == 1
            row = Row(*place, None if agreed else number, r["checkpoint"])
            rows.setdefault(row, {})[column_of(r)] = r
    return rows


def _order(row: Row) -> tuple[str, float, int, str]:
    return row.dataset, row.scale, -1 if row.run is None else row.run, row.checkpoint or ""


def _row(
    row: Row,
    found: dict[str, Result],
    headings: dict[str, tuple[str, dict[str, str | int | float | bool | None]]],
    runs: Sequence[Run],
) -> Markup:
    cells = [element("th", {"scope": "row"}, row.dataset), element("td", None, f"x{row.scale:g}")]
    if len(runs) > 1:
        cells.append(element("td", None, *_key(row.run, runs)))
    weights = row.checkpoint or "none"
    cells.append(element("td", {"title": weights}, Path(weights).name))
    for column in headings:
        text = shown_value(found[column]) if column in found else "-"
        cells.append(element("td", {"class": "number"}, text))
    cells.append(element("td", {"class": "number"}, counts_of(found)))
    return element("tr", {"class": "control"} if row.checkpoint == CONTROL else None, *cells)


def _key(number: int | None, runs: Sequence[Run]) -> list[str]:
    if number is None:
        return [CONTROL]
    return [element("span", {"class": f"key series-{number % COLORS}"}), runs[number].name]


def _protocols(results: list[Result]) -> list[Markup]:
    entries = []
    for heading, protocol in columns(results).values():
        entries.append(element("dt", None, heading))
        entries.append(element("dd", None, describe(protocol)))
    summary = element("summary", None, "Protocols: how each column was measured")
    return [element("details", {"open": True}, summary, element("dl", None, *entries))]


def _seeds(results: list[Result]) -> list[Markup]:
    known = [r.get("seeds") for r in results if r.get("std") is not None]
    counts = sorted({len(seeds) for seeds in known if seeds})
    if not counts:
        return []
    many = ", ".join(map(str, counts))
    text = f"±: standard deviation over {many} seeds, of which the number is the mean."
    return [element("p", {"class": "muted"}, text)]


def _share(number: int, run: str, name: str, share: float) -> Markup:
    percent = 100 * min(max(share, 0.0), 1.0)
    look = {"class": f"bar series-{number % COLORS}", "style": f"width: {percent:.4g}%"}
    bar = element("div", look)
    cells = [element("th", {"scope": "row"}, name)]
    if run:
        cells.append(element("td", None, run))
    cells.append(element("td", {"class": "room"}, bar))
    cells.append(element("td", {"class": "number"}, f"{share:.1%}"))
    return element("tr", None, *cells)


def _scrolling(table: Markup) -> Markup:
    # Wide tables scroll by themselves, also by the keyboard; the page never does sideways.
    return element("div", {"class": "scroll", "tabindex": 0}, table)
