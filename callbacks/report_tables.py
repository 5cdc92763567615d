"""The tables of a report: results with one protocol per column, and shares of time."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from callbacks.report_runs import Run
from callbacks.results_file import Result, column_of, columns, counts_of, describe, shown_value

CONTROL = "bicubic"  # the checkpoint of a metric's control
SHARE = "throughput/share_"  # scalars of callbacks/throughput.py


class Row(NamedTuple):
    """What the numbers of one row share; ``run`` is the run's number, None for a control."""

    dataset: str
    scale: float
    run: int | None
    checkpoint: str | None


class Cells(NamedTuple):
    """A row as it is shown.

    weights: The full name of the checkpoint.
    values: One text per metric.
    images: Number of images.
    """

    dataset: str
    scale: float
    run: int | None
    weights: str
    name: str
    values: list[str]
    images: str
    control: bool


class ResultsTable(NamedTuple):
    """All results of the runs.

    metrics: Headings of the metrics' columns, with an arrow to the better direction.
    protocols: For each heading, how it was measured.
    note: What ± means; empty without deviations.
    """

    metrics: list[str]
    rows: list[Cells]
    protocols: list[tuple[str, str]]
    note: str


class Share(NamedTuple):
    """One bar: a run's share of time, in [0, 1]."""

    name: str
    run: int
    value: float


def results_table(runs: Sequence[Run]) -> ResultsTable | None:
    """Return the table of all results; None without any."""
    results = [result for run in runs for result in run.results]
    if not results:
        return None
    headings = columns(results)
    rows = _rows(runs)
    return ResultsTable(
        [f"{heading}{_arrow(column, results)}" for column, (heading, _) in headings.items()],
        [_cells(row, rows[row], list(headings)) for row in sorted(rows, key=_order)],
        [(heading, describe(protocol)) for heading, protocol in headings.values()],
        _seeds_note(results),
    )


def shares(runs: Sequence[Run]) -> list[Share]:
    """Return the last values of the scalars ``throughput/share_...``."""
    tags = dict.fromkeys(tag for run in runs for tag in run.curves if tag.startswith(SHARE))
    return [
        Share(tag.removeprefix(SHARE), number, run.curves[tag].values[-1])
        for tag in tags
        for number, run in enumerate(runs)
        if tag in run.curves and run.curves[tag].values
    ]


def _arrow(column: str, results: list[Result]) -> str:
    found = next(r for r in results if column_of(r) == column).get("higher_is_better")
    return "" if found is None else " ↑" if found else " ↓"


def _rows(runs: Sequence[Run]) -> dict[Row, dict[str, Result]]:
    """Return results by row and column. Controls that all runs agree on share one row."""
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


def _cells(row: Row, found: dict[str, Result], metrics: list[str]) -> Cells:
    weights = row.checkpoint or "none"
    values = [shown_value(found[metric]) if metric in found else "-" for metric in metrics]
    return Cells(
        *(row.dataset, row.scale, row.run, weights, Path(weights).name, values),
        images=counts_of(found),
        control=row.checkpoint == CONTROL,
    )


def _seeds_note(results: list[Result]) -> str:
    known = [r.get("seeds") for r in results if r.get("std") is not None]
    counts = sorted({len(seeds) for seeds in known if seeds})
    if not counts:
        return ""
    return f"Mean ± standard deviation over {', '.join(map(str, counts))} seeds."
