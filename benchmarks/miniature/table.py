"""All miniatures in one table: `python -m benchmarks.miniature.table`.

Reads ``benchmarks/results/*_miniature.json`` and writes what the papers claim and what was measured
of it, between the marks of ``docs/results.md``, of the methods' own pages and, a line a method, of
``README.md``. Every word about a result is made from those files.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from benchmarks.miniature import __main__ as miniature
from benchmarks.miniature import generators as miniature_generators
from benchmarks.miniature import report as miniature_report
from benchmarks.miniature.jobs import REPOSITORY
from benchmarks.miniature.made import made, minutes, unit_of
from benchmarks.miniature.numbers import FAILS, HOLDS, OPEN, UNTESTED, shown
from benchmarks.miniature.rows import METHODS, kind_of
from benchmarks.report import RESULTS, placed
from files.owned import write_whole

MARKS = ("<!-- results -->", "<!-- end of results -->")
COLUMNS = {
    **miniature_generators.COLUMNS,
    **{name: title.partition(",")[0] for name, title in miniature_report.COLUMNS.items()},
}
TIMES_1000 = miniature_generators.TIMES_1000


def main(arguments: Sequence[str] | None = None) -> int:
    """The command.

    Args:
        arguments: Of the command line; by default those of this process.
    """
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.miniature.table", description=__doc__
    )
    parser.parse_args(arguments)
    for name, text in texts().items():
        path = REPOSITORY / name
        write_whole(path, placed(path.read_text(encoding="utf-8"), text, marks_of(name)))
        sys.stdout.write(f"{name}\n")
    return 0


def marks_of(name: str) -> tuple[str, str]:
    """What a page's text stands between.

    Args:
        name: The page's file.
    """
    return miniature.MARKS if name.startswith("docs/methods/") else MARKS


def texts(folder: Path = RESULTS) -> dict[str, str]:
    """Return what stands between the marks of each page, by the page's file.

    Args:
        folder: Of the JSON files.
    """
    paths = {name: folder / f"{name}_miniature.json" for name in METHODS}
    found = {
        name: json.loads(p.read_text(encoding="utf-8")) for name, p in paths.items() if p.is_file()
    }
    judged = {name: report for name, report in found.items() if METHODS[name].claims}
    pages = {
        f"docs/methods/{name}.md": kind_of(METHODS[name]).markdown(report, name)
        for name, report in found.items()
    }
    return {"docs/results.md": page(judged), "README.md": summary(judged), **pages}


def summary(reports: dict[str, dict[str, Any]]) -> str:
    """Return a line for each method: the headline, all judgements, and what they cost.

    Args:
        reports: By method, as in the JSON files.
    """
    lines = ["| | claimed | measured | all judgements | by `python -m benchmarks.miniature` |"]
    lines.append("|---|---|---|---|---|")
    for name, report in reports.items():
        method, claims = METHODS[name], report["results"]["claims"]
        first = next(c for c in claims if c["claim"] == method.headline)
        cost, machine = sum(minutes(report)), report["machine"]
        unit = unit_of(report["results"]).removesuffix("utes")
        words = report["command"].partition("benchmarks.miniature ")[2]
        stored = f"benchmarks/results/{name}_miniature.json"
        by = f"[`{words}`]({stored}), {cost:.0f} {unit}, {machine['cpu']}, {report['commit'][:7]}"
        link = f"[{method.title}](docs/methods/{name}.md)"
        cells = [link, first["claim"], headline(first), count(claims), by]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def headline(claim: dict[str, Any]) -> str:
    """Return all judgements of a claim.

    Args:
        claim: As in the JSON files.
    """
    several = len(_scales(claim)) > 1
    texts = []
    for metric in dict.fromkeys(apart["metric"] for apart in claim["judged"]):
        of_metric = [apart for apart in claim["judged"] if apart["metric"] == metric]
        parts = []
        for verdict, alike in groupby(of_metric, shown):
            values = (_value(a) + (f" (x{a['scale']:g})" if several else "") for a in alike)
            parts.append(f"{', '.join(values)}: **{verdict}**")
        texts.append(f"{COLUMNS[metric]} {'; '.join(parts)}")
    return "; ".join(texts)


def page(reports: dict[str, dict[str, Any]]) -> str:
    """Return every claim of every method, with what it cost to judge it.

    Args:
        reports: By method, as in the JSON files.
    """
    return "\n".join(_section(name, report) for name, report in reports.items())


def _section(name: str, report: dict[str, Any]) -> str:
    results = report["results"]
    labels = {key: row["label"] for key, row in results["rows"].items()}
    several = len({scale for claim in results["claims"] for scale in _scales(claim)}) > 1
    lines = [
        f"## {METHODS[name].title}",
        "",
        f"Judgements: {count(results['claims'])}. [The whole table](methods/{name}.md). "
        f"{made(report, f'../benchmarks/results/{name}_miniature.json')}, "
        f"seeds {', '.join(map(str, results['seeds']))}.",
        "",
        f"| claim | the better one - the other one |{' scale |' * several} measured |",
        f"|---|---|{'---|' * several}---|",
    ]
    for claim in results["claims"]:
        cells = [claim["claim"], f"{labels[claim['better']]} - {labels[claim['than']]}"]
        for scale in _scales(claim) or [None]:
            judged = [measured(a) for a in claim["judged"] if a.get("scale") == scale]
            where = [f"x{scale:g}" if scale else ""] * several
            lines.append(f"| {' | '.join([*cells, *where, '; '.join(judged)])} |")
            cells = ["", ""]  # once, above all of its scales
    return "\n".join(lines) + "\n"


def _scales(claim: dict[str, Any]) -> list[float | None]:
    return sorted({apart.get("scale") for apart in claim["judged"]})


def measured(apart: dict[str, Any]) -> str:
    """A judgement: its metric, the difference and the verdict.

    Args:
        apart: As in the JSON files.
    """
    return f"{COLUMNS[apart['metric']]} {_value(apart)}: **{shown(apart)}**"


def count(claims: Sequence[dict[str, Any]]) -> str:
    """Of all judgements, those that hold, those that do not, those that are not decided."""
    verdicts = [shown(apart) for claim in claims for apart in claim["judged"]]
    kinds = [HOLDS, FAILS, OPEN, *[UNTESTED] * (UNTESTED in verdicts)]
    counted = ", ".join(f"{kind}: {verdicts.count(kind)}" for kind in kinds)
    return f"of {len(verdicts)}, {counted}"


def _value(apart: dict[str, Any]) -> str:
    times = 1000 if apart["metric"] in TIMES_1000 else 1
    return f"{times * apart['difference']:+.3g}"


if __name__ == "__main__":
    raise SystemExit(main())
