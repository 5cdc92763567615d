"""All miniatures in one table: `python -m benchmarks.table`.

Reads ``benchmarks/results/*_miniature.json`` and writes what the papers claim and what was measured
of it, between the marks of ``docs/results.md``, of the methods' own pages and, a line a method, of
``README.md``. Every word about a result is made from those files.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks import miniature, miniature_generators, miniature_report
from benchmarks.miniature_jobs import REPOSITORY
from benchmarks.miniature_made import made, minutes, unit_of
from benchmarks.miniature_numbers import FAILS, HOLDS, OPEN
from benchmarks.miniature_rows import METHODS, kind_of
from benchmarks.report import RESULTS, placed
from callbacks.results_file import write_whole

MARKS = ("<!-- results -->", "<!-- end of results -->")
TITLES = {
    "casarbi": "CasArbi",
    "invsr": "InvSR",
    "nsarm": "NSARM",
    "resshift": "ResShift",
    "self_cascade": "Self-Cascade",
    "self_cascade_video": "Self-Cascade, video",
}
COLUMNS = {
    **miniature_generators.COLUMNS,
    **{name: title.partition(",")[0] for name, title in miniature_report.COLUMNS.items()},
}
SHOWN = 4.0  # the scale of README's line, where a headline has several
TIMES_1000 = miniature_generators.TIMES_1000


class Other(NamedTuple):
    """Judgements of other trainings of a method.

    Args:
        title: What was other about them.
        file: The JSON file's name.
        report: What it holds.
    """

    title: str
    file: str
    report: dict[str, Any]


def main(arguments: Sequence[str] | None = None) -> int:
    """The command.

    Args:
        arguments: Of the command line; by default those of this process.
    """
    parser = argparse.ArgumentParser(prog="python -m benchmarks.table", description=__doc__)
    parser.parse_args(arguments)
    for name, text in texts().items():
        path = REPOSITORY / name
        write_whole(path, placed(path.read_text(), text, marks_of(name)))
        sys.stdout.write(f"{name}\n")
    return 0


def marks_of(name: str) -> tuple[str, str]:
    """What a page's text stands between.

    Args:
        name: The page's file.
    """
    return miniature.MARKS if name.startswith("docs/methods/") else MARKS


def texts(folder: Path = RESULTS) -> dict[str, str]:
    """What stands between the marks of each page, by its file.

    Args:
        folder: Of the JSON files.
    """
    paths = {name: folder / f"{name}_miniature.json" for name in METHODS}
    found = {name: json.loads(p.read_text()) for name, p in paths.items() if p.is_file()}
    judged = {name: found[name] for name in TITLES if name in found}
    others = {name: _others(folder, name) for name in judged}
    pages = {
        f"docs/methods/{name}.md": kind_of(METHODS[name]).markdown(report, name)
        for name, report in found.items()
    }
    return {"docs/results.md": page(judged, others), "README.md": summary(judged), **pages}


def _others(folder: Path, name: str) -> list[Other]:
    found = []
    for path in sorted(folder.glob(f"{name}_miniature_*.json")):
        said = re.fullmatch(r"(longer_)?(\d+)", path.stem.removeprefix(f"{name}_miniature_"))
        if said is not None:  # those of a GPU are of another machine
            title = f"{said[2]} times the steps" if said[1] else "trained again"
            found.append(Other(title, path.name, json.loads(path.read_text())))
    return found


def summary(reports: dict[str, dict[str, Any]]) -> str:
    """A line a method: the headline at one scale, all judgements, and what it took.

    Args:
        reports: By method, as in the JSON files.
    """
    lines = ["| | claimed | measured | all judgements | by `python -m benchmarks.miniature` |"]
    lines.append("|---|---|---|---|---|")
    for name, report in reports.items():
        claims = report["results"]["claims"]
        first = next(c for c in claims if c["claim"] == METHODS[name].headline)
        scales = [apart.get("scale") for apart in first["judged"]]  # generators have none
        shown = SHOWN if SHOWN in scales else scales[0]
        there = {"judged": [apart for apart in first["judged"] if apart.get("scale") == shown]}
        said = "; ".join(measured(metric, found) for metric, found in by_metric(there))
        several = len(set(scales))
        where = f"at x{shown:g}, one of {several} scales: " if several > 1 else ""
        took, machine = sum(minutes(report)), report["machine"]
        unit = unit_of(report["results"]).removesuffix("utes")
        words = report["command"].partition("benchmarks.miniature ")[2]
        stored = f"benchmarks/results/{name}_miniature.json"
        by = f"[`{words}`]({stored}), {took:.0f} {unit}, {machine['cpu']}, {report['commit'][:7]}"
        link = f"[{TITLES[name]}](docs/methods/{name}.md)"
        lines.append(f"| {link} | {first['claim']} | {where}{said} | {count(claims)} | {by} |")
    return "\n".join(lines) + "\n"


def page(
    reports: dict[str, dict[str, Any]], others: Mapping[str, Sequence[Other]] | None = None
) -> str:
    """Every claim of every method, with what it took to judge it.

    Args:
        reports: By method, as in the JSON files.
        others: Of other trainings, by method.
    """
    beside = others or {}
    return "\n".join(_section(name, own, beside.get(name, ())) for name, own in reports.items())


def _section(name: str, report: dict[str, Any], others: Sequence[Other]) -> str:
    results = report["results"]
    labels = {key: row["label"] for key, row in results["rows"].items()}
    stored = "../benchmarks/results"
    titles = "".join(f" {other.title} |" for other in others)
    lines = [
        f"## {TITLES[name]}",
        "",
        f"Judgements: {count(results['claims'])}. [The whole table](methods/{name}.md). "
        f"{made(report, f'{stored}/{name}_miniature.json')}, "
        f"seeds {', '.join(map(str, results['seeds']))}.",
        *(
            f"{title[0].upper()}{title[1:]}: {count(other['results']['claims'])}. "
            f"{made(other, f'{stored}/{file}')}.\n"
            f"{changes(results['claims'], other['results']['claims'])}."
            for title, file, other in others
        ),
        "",
        f"| claim | the better one - the other one | measured |{titles}",
        f"|---|---|---|{'---|' * len(others)}",
    ]
    for claim in results["claims"]:
        who = f"{labels[claim['better']]} - {labels[claim['than']]}"
        found = [claim, *(_same(claim, o.report["results"]["claims"]) for o in others)]
        said = ["; ".join(measured(*apart) for apart in by_metric(one)) for one in found]
        lines.append(f"| {claim['claim']} | {who} | {' | '.join(said)} |")
    return "\n".join(lines) + "\n"


def _same(claim: dict[str, Any], claims: Sequence[dict[str, Any]]) -> dict[str, Any]:
    who = ("claim", "better", "than")
    found = (other for other in claims if all(other[key] == claim[key] for key in who))
    return next(found, {"judged": []})


def changes(claims: Sequence[dict[str, Any]], again: Sequence[dict[str, Any]]) -> str:
    """How many judgements another training has changed, of those that both have.

    Args:
        claims: Of the first training.
        again: Of the other one.
    """
    verdicts = []
    for claim in claims:
        other = {_what(apart): apart["verdict"] for apart in _same(claim, again)["judged"]}
        verdicts += [
            (apart["verdict"], other[_what(apart)])
            for apart in claim["judged"]
            if _what(apart) in other
        ]
    changed = sum(first != second for first, second in verdicts)
    return f"{changed} of {len(verdicts)} judgements differ from those of the first training"


def by_metric(claim: dict[str, Any]) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """The judgements of a claim, a metric at a time."""
    for metric in dict.fromkeys(apart["metric"] for apart in claim["judged"]):
        yield metric, [apart for apart in claim["judged"] if apart["metric"] == metric]


def measured(metric: str, judged: Sequence[dict[str, Any]]) -> str:
    """The differences of one metric, and where the claim holds.

    Args:
        metric: Its name.
        judged: At each scale; one of them without a scale for what has none.
    """
    several = len(judged) > 1
    differences = ", ".join(
        f"{_value(apart):+.3g}{f' ({_scale(apart)})' if several else ''}" for apart in judged
    )
    verdicts = [apart["verdict"] for apart in judged]
    if len(set(verdicts)) == 1:
        return f"{COLUMNS[metric]} {differences}: **{verdicts[0]}**"
    where = "; ".join(
        f"**{verdict}** at {', '.join(_scale(a) for a in judged if a['verdict'] == verdict)}"
        for verdict in (HOLDS, OPEN, FAILS)
        if verdict in verdicts
    )
    return f"{COLUMNS[metric]} {differences}: {where}"


def count(claims: Sequence[dict[str, Any]]) -> str:
    """Of all judgements, those that hold, those that do not, those that are not decided."""
    verdicts = [apart["verdict"] for claim in claims for apart in claim["judged"]]
    return (
        f"of {len(verdicts)}, holds: {verdicts.count(HOLDS)}, does not hold: "
        f"{verdicts.count(FAILS)}, not decided: {verdicts.count(OPEN)}"
    )


def _what(apart: dict[str, Any]) -> tuple[str, float | None]:
    return apart["metric"], apart.get("scale")  # generators have no scale


def _value(apart: dict[str, Any]) -> float:
    value: float = apart["difference"]
    return 1000 * value if apart["metric"] in TIMES_1000 else value


def _scale(apart: dict[str, Any]) -> str:
    return f"x{apart['scale']:g}"


if __name__ == "__main__":
    raise SystemExit(main())
