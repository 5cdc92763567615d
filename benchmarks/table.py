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
from collections.abc import Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks import miniature, miniature_generators, miniature_report
from benchmarks.miniature_jobs import REPOSITORY
from benchmarks.miniature_made import made, minutes, unit_of
from benchmarks.miniature_numbers import FAILS, HOLDS, OPEN, UNTESTED, shown
from benchmarks.miniature_rows import METHODS, kind_of
from benchmarks.report import RESULTS, placed
from files.owned import write_whole

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

    @property
    def results(self) -> dict[str, Any]:
        """Rows, claims and the gate."""
        found: dict[str, Any] = self.report["results"]
        return found

    @property
    def judged(self) -> bool:
        """Whether its base was good enough to compare what is made of it."""
        return bool(self.results["gate"]["open"])


def main(arguments: Sequence[str] | None = None) -> int:
    """The command.

    Args:
        arguments: Of the command line; by default those of this process.
    """
    parser = argparse.ArgumentParser(prog="python -m benchmarks.table", description=__doc__)
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
    """What stands between the marks of each page, by its file.

    Args:
        folder: Of the JSON files.
    """
    paths = {name: folder / f"{name}_miniature.json" for name in METHODS}
    found = {
        name: json.loads(p.read_text(encoding="utf-8")) for name, p in paths.items() if p.is_file()
    }
    judged = {name: found[name] for name in TITLES if name in found}
    others = {name: _others(folder, name) for name in judged}
    pages = {
        f"docs/methods/{name}.md": kind_of(METHODS[name]).markdown(report, name)
        for name, report in found.items()
    }
    return {"docs/results.md": page(judged, others), "README.md": summary(judged, others), **pages}


def _others(folder: Path, name: str) -> list[Other]:
    found = []
    for path in sorted(folder.glob(f"{name}_miniature_*.json")):
        said = re.fullmatch(r"(longer_)?(\d+)", path.stem.removeprefix(f"{name}_miniature_"))
        if said is not None:  # those of a GPU are of another machine
            title = f"{said[2]} times the steps" if said[1] else "trained again"
            found.append(Other(title, path.name, json.loads(path.read_text(encoding="utf-8"))))
    return found


def summary(
    reports: dict[str, dict[str, Any]], others: Mapping[str, Sequence[Other]] | None = None
) -> str:
    """A line a method: the headline, all judgements, and what it took; then what changed.

    Args:
        reports: By method, as in the JSON files.
        others: Of other trainings, by method.
    """
    beside = others or {}
    lines = ["| | claimed | measured | all judgements | by `python -m benchmarks.miniature` |"]
    lines.append("|---|---|---|---|---|")
    for name, report in reports.items():
        claims = report["results"]["claims"]
        first = next(c for c in claims if c["claim"] == METHODS[name].headline)
        again = [_same(first, o.results["claims"]) for o in beside.get(name, ()) if o.judged]
        said = headline(first, again)
        took, machine = sum(minutes(report)), report["machine"]
        unit = unit_of(report["results"]).removesuffix("utes")
        words = report["command"].partition("benchmarks.miniature ")[2]
        stored = f"benchmarks/results/{name}_miniature.json"
        by = f"[`{words}`]({stored}), {took:.0f} {unit}, {machine['cpu']}, {report['commit'][:7]}"
        link = f"[{TITLES[name]}](docs/methods/{name}.md)"
        lines.append(f"| {link} | {first['claim']} | {said} | {count(claims)} | {by} |")
    return "\n".join([*lines, *_differ(reports, beside)]) + "\n"


def headline(claim: dict[str, Any], others: Sequence[dict[str, Any]]) -> str:
    """All of a claim's judgements, and in how many trainings the verdict is the same.

    Args:
        claim: Of the first training.
        others: The same claim of other trainings.
    """
    again = [{_what(apart): shown(apart) for apart in other["judged"]} for other in others]
    several = len(_scales([claim])) > 1

    def verdict(apart: dict[str, Any]) -> str:
        own, what = shown(apart), _what(apart)
        found = [own, *(other[what] for other in again if what in other)]
        trained_again = len(found) > 1 and own != UNTESTED
        agree = f" ({found.count(own)} of {len(found)})" if trained_again else ""
        return f"**{own}**{agree}"

    said = []
    for metric in dict.fromkeys(apart["metric"] for apart in claim["judged"]):
        of_metric = [apart for apart in claim["judged"] if apart["metric"] == metric]
        parts = []
        for words, alike in groupby(of_metric, verdict):
            values = (f"{_value(a)}{f' ({_scale(a)})' if several else ''}" for a in alike)
            parts.append(f"{', '.join(values)}: {words}")
        said.append(f"{COLUMNS[metric]} {'; '.join(parts)}")
    return "; ".join(said)


def _differ(reports: dict[str, dict[str, Any]], others: Mapping[str, Sequence[Other]]) -> list[str]:
    found: dict[str, dict[str, tuple[int, int]]] = {}  # by what was other, and method
    for name, report in reports.items():
        for other in filter(lambda other: other.judged, others.get(name, ())):
            differ, both = changed(report["results"]["claims"], other.results["claims"])
            more = found.setdefault(other.title, {}).get(name, (0, 0))
            found[other.title][name] = differ + more[0], both + more[1]
    said = []
    for title, counted in found.items():
        whose = "" if len(counted) == len(reports) else f": {'; '.join(TITLES[n] for n in counted)}"
        differ, both = (sum(numbers) for numbers in zip(*counted.values(), strict=True))
        said.append(f"{differ} of {both} ({title}{whose})")
    if not said:
        return []
    return ["", f"Judgements that differ from those of the first training: {', '.join(said)}."]


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
    compared = [other for other in others if other.judged]
    titles = "".join(f" {other.title} |" for other in compared)
    again = [other.results["claims"] for other in compared]
    several = (
        len(_scales([claim for claims in (results["claims"], *again) for claim in claims])) > 1
    )
    lines = [
        f"## {TITLES[name]}",
        "",
        f"Judgements: {count(results['claims'])}. [The whole table](methods/{name}.md). "
        f"{made(report, f'{stored}/{name}_miniature.json')}, "
        f"seeds {', '.join(map(str, results['seeds']))}.",
        *(_about(other, results["claims"], stored) for other in others),
        "",
        f"| claim | the better one - the other one |{' scale |' * several} measured |{titles}",
        f"|---|---|{'---|' * several}---|{'---|' * len(compared)}",
    ]
    for claim in results["claims"]:
        who = [claim["claim"], f"{labels[claim['better']]} - {labels[claim['than']]}"]
        found = [claim, *(_same(claim, other) for other in again)]
        for scale in _scales(found) or [None]:
            judged = ([a for a in one["judged"] if a.get("scale") == scale] for one in found)
            said = ["; ".join(map(measured, some)) for some in judged]
            where = [f"x{scale:g}" if scale else ""] * several
            lines.append(f"| {' | '.join([*who, *where, *said])} |")
            who = ["", ""]  # said once, above all of its scales
    return "\n".join(lines) + "\n"


def _about(other: Other, first: Sequence[dict[str, Any]], stored: str) -> str:
    title = f"{other.title[0].upper()}{other.title[1:]}"
    source = f"{made(other.report, f'{stored}/{other.file}')}."
    claims = other.results["claims"]
    if not other.judged:
        return f"{title}: the gate is not passed, so nothing is judged. {source}"
    return f"{title}: {count(claims)}. {source}\n{changes(first, claims)}."


def _scales(claims: Sequence[dict[str, Any]]) -> list[float | None]:
    return sorted({apart.get("scale") for claim in claims for apart in claim["judged"]})


def _same(claim: dict[str, Any], claims: Sequence[dict[str, Any]]) -> dict[str, Any]:
    who = ("claim", "better", "than")
    found = (other for other in claims if all(other[key] == claim[key] for key in who))
    return next(found, {"judged": []})


def changes(claims: Sequence[dict[str, Any]], again: Sequence[dict[str, Any]]) -> str:
    """How many judgements another training has changed, in a sentence without its full stop.

    Args:
        claims: Of the first training.
        again: Of the other one.
    """
    differ, both = changed(claims, again)
    return f"{differ} of {both} judgements differ from those of the first training"


def changed(claims: Sequence[dict[str, Any]], again: Sequence[dict[str, Any]]) -> tuple[int, int]:
    """How many judgements differ, and how many both trainings have.

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
    return sum(first != second for first, second in verdicts), len(verdicts)


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


def _what(apart: dict[str, Any]) -> tuple[str, float | None]:
    return apart["metric"], apart.get("scale")  # generators have no scale


def _value(apart: dict[str, Any]) -> str:
    times = 1000 if apart["metric"] in TIMES_1000 else 1
    return f"{times * apart['difference']:+.3g}"


def _scale(apart: dict[str, Any]) -> str:
    return f"x{apart['scale']:g}"


if __name__ == "__main__":
    raise SystemExit(main())
