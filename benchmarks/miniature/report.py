"""The miniature's report: all numbers as JSON, and the page's tables made from that alone."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import groupby
from typing import Any

from benchmarks.miniature.jobs import Note
from benchmarks.miniature.measure import FAILS, HOLDS, OPEN, Measured, judge, short
from benchmarks.miniature.table import Claim, Plan

COLUMNS = {  # heading, digits and factor of each metric
    "psnr": ("PSNR-Y", 2, 1),
    "ssim": ("SSIM", 3, 1),
    "lpips": ("LPIPS", 3, 1),
    "swd": ("SWD", 2, 1),
    "swd_2": ("SWD, halved", 2, 1),
    "kid_thumb": ("KID-thumb x 1e6", 0, 1e6),
    "lr_psnr": ("LR, dB", 1, 1),
    "repetition": ("repetition", 3, 1),
    "calls": ("calls", 0, 1),
    "seconds": ("s an image", 3, 1),
}
FEW = 4  # claims of one text and metric that have a line each, even if all hold


def collect(plan: Plan, data: str) -> dict[str, Any]:
    """Return all numbers of the wanted rows, with the claims on them.

    Args:
        plan: Its commands are done.
        data: Where the images are from.
    """
    measured = {row.name: Measured(plan.run_of(row.name)) for row in plan.rows}
    notes = {job.name: job.note() for job in plan.jobs()}
    tasks = {row.task for row in plan.rows}
    return {
        "data": data,
        "images": len(next(iter(measured.values())).keys),
        "seeds": list(range(plan.seeds)),
        "steps": plan.steps,
        "note": plan.table.note,
        "trainings": _costs(notes, "fit "),
        "evaluations": _costs(notes, "test "),
        "tasks": {
            name: {
                "title": task.title,
                "rows": {
                    row.name: {"label": row.label, "numbers": measured[row.name].stored()}
                    for row in plan.rows
                    if row.task == name
                },
            }
            for name, task in plan.table.tasks.items()
            if name in tasks
        },
        "claims": [
            _judged(claim, measured)
            for claim in plan.table.all_claims()
            if claim.row in measured and (not isinstance(claim.than, str) or claim.than in measured)
        ],
    }


def _costs(notes: dict[str, Note], verb: str) -> dict[str, Any]:
    return {
        name.removeprefix(verb): note.cost()
        for name, note in notes.items()
        if name.startswith(verb)
    }


def _judged(claim: Claim, measured: dict[str, Measured]) -> dict[str, Any]:
    than = measured[claim.than] if isinstance(claim.than, str) else claim.than
    found = judge(measured[claim.row], claim.metric, than, claim.margin)
    return {**vars(claim), "margin": short(claim.margin), **found.stored()}


# --------------------------------------------------------------------------------------- the page
def markdown(report: dict[str, Any]) -> str:
    """Return the page's part: how it was made, a table a task, and the claims.

    Args:
        report: As the JSON file holds it.
    """
    results, machine = report["results"], report["machine"]
    minutes = {
        what: {
            name: (cost["cpu_seconds"] or cost["seconds"]) / 60
            for name, cost in results[what].items()
        }
        for what in ("trainings", "evaluations")
    }
    longest = sorted(minutes["trainings"].items(), key=lambda item: -item[1])[:5]
    named = ", ".join(f"{name} {count:.0f}" for name, count in longest)
    training, evaluation = (sum(part.values()) for part in minutes.values())
    made = (
        f"`{report['command']}` ([JSON](../benchmarks/results/cars.json)), commit "
        f"{report['commit'][:7]}, {machine['cpu']} ({machine['cores']} cores): {training:.0f} "
        f"CPU minutes of training (the longest: {named}) and {evaluation:.0f} of evaluation. "
        f"{results['images']} test images of {results['data']}; means over "
        f"{len(results['seeds'])} sampling seeds. {results['note']}"
    )
    parts = [made.rstrip(), "![The same cars, a line a row](../benchmarks/results/cars.webp)"]
    for task in results["tasks"].values():
        parts += [f"### {task['title']}", _table(task["rows"])]
    parts += ["### Claims", _count(results["claims"]), _claims(results)]
    return "\n\n".join(parts) + "\n"


def summary(report: dict[str, Any]) -> str:
    """Return the README's part: the image, and how many claims hold.

    Args:
        report: As the JSON file holds it.
    """
    claims = report["results"]["claims"]
    image = "![The same cars, a line a row](benchmarks/results/cars_front.webp)"
    about = (
        "Held-out cars, enlarged by small versions of the methods that were trained on two cores."
    )
    return f"{image}\n\n{about} {_verdicts(claims)}.\n"


def _table(rows: dict[str, Any]) -> str:
    shown = [key for key in COLUMNS if any(key in row["numbers"] for row in rows.values())]
    lines = [["", *(COLUMNS[key][0] for key in shown)], ["---", *["---:"] * len(shown)]]
    for row in rows.values():
        lines.append([row["label"], *(_cell(row["numbers"], key) for key in shown)])
    return _grid(lines)


def _cell(numbers: dict[str, Any], key: str) -> str:
    if key not in numbers:
        return "-"
    _, digits, factor = COLUMNS[key]
    deviation = numbers.get(f"{key}_std")
    more = "" if deviation is None else f" ± {factor * deviation:.{digits}f}"
    return f"{factor * numbers[key]:.{digits}f}{more}"


def _count(claims: list[dict[str, Any]]) -> str:
    return (
        f"{_verdicts(claims)}. A claim holds where the 95 % interval of the "
        "difference, less the margin, lies on its side of 0; intervals are over images. "
        "A line of several claims has their least and greatest difference; the JSON has each."
    )


def _verdicts(claims: list[dict[str, Any]]) -> str:
    verdicts = [claim["verdict"] for claim in claims]
    hold, fail, open_ = (verdicts.count(kind) for kind in (HOLDS, FAILS, OPEN))
    return f"Of {len(claims)} claims {hold} hold, {fail} do not, and {open_} are not decided"


def _claims(results: dict[str, Any]) -> str:
    rows = {
        name: (row["label"], task["title"].partition(",")[0])
        for task in results["tasks"].values()
        for name, row in task["rows"].items()
    }
    lines = [["claim", "row", "than", "metric", "difference", ""], ["---"] * 6]
    text = ""
    for (said, metric), group in groupby(results["claims"], lambda c: (c["text"], c["metric"])):
        claims = list(group)
        one_line = len(claims) > FEW and all(claim["verdict"] == HOLDS for claim in claims)
        found = [_together(claims, rows)] if one_line else [_claim(one, rows) for one in claims]
        for line in found:
            row, than, difference, verdict = line
            first, text = "" if said == text else said, said
            lines.append([first, row, than, COLUMNS[metric][0], difference, f"**{verdict}**"])
    return _grid(lines)


def _claim(claim: dict[str, Any], rows: dict[str, tuple[str, str]]) -> tuple[str, ...]:
    """Return the row, what it is compared with, the difference and the verdict of a claim."""
    _, digits, factor = COLUMNS[claim["metric"]]
    than = claim["than"]
    than = rows[than][0] if isinstance(than, str) else f"{factor * than:g}"
    if claim["margin"]:
        than += f" {factor * claim['margin']:+g}"
    number = f"{factor * claim['difference']:+.{digits}f}"
    if claim["interval"] is not None:
        number += f" ({_range((factor * end for end in claim['interval']), digits)})"
    return ", ".join(rows[claim["row"]]), than, number, claim["verdict"]


def _together(claims: list[dict[str, Any]], rows: dict[str, tuple[str, str]]) -> tuple[str, ...]:
    """Return the same of claims that all hold, with the least and the greatest difference."""
    _, digits, factor = COLUMNS[claims[0]["metric"]]
    than = dict.fromkeys(_claim(claim, rows)[1] for claim in claims)
    differences = sorted(factor * claim["difference"] for claim in claims)
    number = _range((differences[0], differences[-1]), digits)
    return f"all {len(claims)}", ", ".join(than), number, HOLDS


def _range(ends: Iterable[float], digits: int) -> str:
    return " to ".join(f"{end:+.{digits}f}" for end in ends)


def _grid(lines: list[list[str]]) -> str:
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
