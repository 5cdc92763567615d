"""The text of docs/soak.md that says what `benchmarks.soak` found, made from its JSON alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from benchmarks.soak_faults import KINDS
from benchmarks.soak_numbers import undecided

PAGE = Path("docs", "soak.md")
MARKS = ("<!-- soak -->", "<!-- end of soak -->")
NAMES = {
    "memory": "resident memory, MB",
    "used": "memory in use by the training process, MB",
    "descriptors": "open files",
}
WHERE = {
    "undisturbed": "undisturbed run, one process",
    "within processes": "disturbed run, within its processes",
    "over restarts": "disturbed run, from process to process",
}


def text_of(path: Path) -> str:
    """What stands between the page's marks.

    Args:
        path: The JSON.
    """
    found = json.loads(path.read_text(encoding="utf-8"))
    results, machine = found["results"], found["machine"]
    same, faults = results["same"], results["faults"]
    count = sum(of["count"] for kind, of in faults.items() if kind != "nothing")
    lines = [
        f"`{found['command']}` at commit {found['commit'][:7]}, {machine['cores']} cores, "
        f"{machine['cpu']}, torch {machine['torch']}: {results['minutes']:g} minutes, "
        f"{same['batches']:,} batches, {count} faults, {results['starts']} starts.",
        "",
        _equality(results),
        "",
        "| what happened | times | the run ended with | batches done again, at most | seconds "
        "until it trained again, median |",
        "|---|---|---|---|---|",
        *(_fault(kind, of) for kind, of in faults.items()),
        "",
        "| growth an hour, with its interval of 95 % | mean | " + " | ".join(WHERE.values()) + " |",
        "|---|---|---|---|---|",
        *(_growth(what, of) for what, of in results["growth an hour"].items()),
        "",
    ]
    lines += _kinds(results["open files by what they are"])
    if not results["a disk of its own"]:
        lines += ["Without root there was no small disk that could be filled.", ""]
    if unknown := undecided(results["growth an hour"]):
        lines += [f"Not decided, so wide are the intervals: {'; '.join(unknown)}.", ""]
    if results["what is wrong"]:
        lines += [f"**What is wrong: {'; '.join(results['what is wrong'])}.**", ""]
    return "\n".join(lines)


def _equality(results: dict[str, Any]) -> str:
    same = results["same"]
    differ = same["batches whose crops or state differ from the undisturbed run's"]
    again = same["batches done, repeated ones included"] - same["batches"]
    ours, theirs = same["steps left out"]
    replaced = same["samples replaced"]
    if differ:
        said = f"**{differ:,} of the batches differ, the first is {same['the first of them']:,}.**"
    else:
        end = (
            "are" if results["final checkpoint is bit-equal"] else "are, **but not the last file**"
        )
        said = f"Crops and state of each batch {end} bit for bit those of the undisturbed run."
    return (
        f"{said} {again:,} batches were done again after a restart, "
        f"{same['batches that differed when they were repeated']:,} of them otherwise than before. "
        f"Steps that Guard left out: {ours} ({theirs} in the undisturbed run); samples of the "
        f"broken picture that were replaced: {replaced[0]:,} ({replaced[1]:,})."
    )


def _fault(kind: str, of: dict[str, Any]) -> str:
    name = KINDS.get(kind, "nothing that we did")
    ends = ", ".join(f"{status} ({count})" for status, count in of["statuses"].items())
    waited = of["seconds until it trains, median"]
    cells = [name, of["count"], ends or "went on", of["batches lost, at most"]]
    return f"| {' | '.join(map(str, cells))} | {'-' if waited is None else f'{waited:g}'} |"


def _growth(what: str, of: dict[str, Any]) -> str:
    cells = [
        "-" if s is None else f"{s['slope']:+.2f} ({s['low']:+.2f} to {s['high']:+.2f})"
        for s in (of[where] for where in WHERE)
    ]
    mean = next((s["mean"] for s in of.values() if s is not None), None)
    shown = "-" if mean is None else f"{mean:,.0f}"
    return f"| {NAMES[what]} | {shown} | {' | '.join(cells)} |"


def _kinds(found: dict[str, dict[str, list[float]]]) -> list[str]:
    """What the files are that a run has open."""
    rows = []
    for kind in sorted({kind for of in found.values() for kind in of}):
        cells = (", ".join(f"{count:g}" for count in of.get(kind, [0])) for of in found.values())
        rows.append(f"| {kind} | {' | '.join(cells)} |")
    return [
        "| open files: in a first half minute, in the last one, at most | "
        + " | ".join(f"{name} run" for name in found)
        + " |",
        f"|---|{'---|' * len(found)}",
        *rows,
        "",
    ]
