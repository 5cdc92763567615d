"""``results.csv``: the numbers of a run as a table for papers, and its columns' protocols."""

from __future__ import annotations

import csv
import io
import logging
from collections.abc import Sequence
from pathlib import Path

from callbacks.results_file import Result, column_of, columns, describe, set_aside
from files.owned import write_whole

log = logging.getLogger(__name__)


def write_csv(path: Path, results: list[Result]) -> None:
    """Write a table of all results, and a second one of its columns' protocols.

    The table has one line of headings and plain cells, so that pandas and spreadsheets read it
    without options. A row is a dataset, scale and checkpoint, a column a metric of one protocol,
    with ``_n`` for the number of images and, for several seeds, ``_std``; ``_std_over_seeds`` if a
    metric already has that name, as KID's deviation between subsets.

    Args:
        path: The table; the protocols go to ``<name>_protocols.csv``.
        results: As in ``results.json``.
    """
    headings = {column: heading for column, (heading, _) in columns(results).items()}
    taken = set(headings.values())
    deviations = {
        column: f"{heading}_std" + "_over_seeds" * (f"{heading}_std" in taken)
        for column, heading in headings.items()
    }
    deviating = {column_of(result) for result in results if "std" in result}
    rows: dict[tuple[str, float, str | None], dict[str, object]] = {}
    for result in results:
        place = (result["dataset"], result["scale"], result["checkpoint"])
        row = rows.setdefault(place, {})
        row |= {"dataset": place[0], "scale": f"{place[1]:g}", "checkpoint": place[2] or ""}
        column = column_of(result)
        heading = headings[column]
        row[heading] = result["value"]
        row[f"{heading}_n"] = result["n"] - result.get("not_finite", 0)
        if "std" in result:
            row[deviations[column]] = result["std"]
        if "seeds" in result:
            row["seeds"] = " ".join(map(str, result["seeds"]))
    names = ["dataset", "scale", "checkpoint"]
    if any("seeds" in row for row in rows.values()):
        names.append("seeds")
    for column, heading in headings.items():
        names += [heading, *([deviations[column]] if column in deviating else []), f"{heading}_n"]
    cells = [[row.get(name, "") for name in names] for row in rows.values()]
    _write(path, [names, *cells])
    protocols = [[heading, describe(protocol)] for heading, protocol in columns(results).values()]
    beside = path.with_name(f"{path.stem}_protocols.csv")
    _write(beside, [["column", "protocol"], *protocols])


def _write(path: Path, rows: Sequence[Sequence[object]]) -> None:
    if path.is_dir():  # no reason to fail a finished evaluation
        log.warning("%s is a folder; it was moved to %s", path, set_aside(path))
    write_whole(path, _csv(rows))


def _csv(rows: Sequence[Sequence[object]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()
