"""A miniature's report: all numbers as JSON, and the page's text made from that alone."""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any

from benchmarks.miniature.jobs import Note
from benchmarks.miniature.made import made
from benchmarks.miniature.numbers import (
    ALL,
    PER_IMAGE,
    SPREAD,
    SWD,
    Measured,
    difference,
    set_of,
    short,
    shown,
)
from benchmarks.miniature.plan import SAME, Plan
from benchmarks.miniature.spec import BICUBIC, Claim, Gate, Row
from callbacks.metrics.consistency import SelfSSIM
from callbacks.results.files import load_results

COLUMNS = {"psnr": "PSNR-Y, dB", "ssim": "SSIM", "niqe": "NIQE", SWD: "SWD"}
COLUMNS |= {"lpips": "LPIPS", "lattice": "Lattice of 8 pixels"}
COLUMNS |= {SPREAD: "variance of the gain over bicubic"}
DIGITS = {"psnr": 2, "ssim": 4, "niqe": 2, SWD: 3, "lpips": 4, "lattice": 2, SPREAD: 2}
COST = {"calls": "calls", "seconds": "seconds an image", "parameters": "parameters, M"}
COST |= {"memory": "memory of a batch, MiB"}
JUDGED = ("psnr", "ssim", SWD)  # by which a row may lose to its control
WEAK = "Base too weak, no comparison."


def collect(plan: Plan) -> dict[str, Any]:
    """All numbers of the rows that are wanted, with what may be said of them.

    Args:
        plan: Its commands are done.

    Returns:
        What JSON holds.
    """
    notes = {job.name: job.note() for job in plan.jobs()}
    rows = plan.rows
    measured = {row.name: Measured(plan.run_of(row.name), plan.seeds[0]) for row in rows}
    first = measured[rows[0].name]
    gate, facts = _gate(plan), plan.method.facts
    claims = [c for c in plan.method.claims if {c.better, c.than} <= measured.keys()]
    return {
        "seeds": list(plan.seeds),
        "steps": plan.steps,
        "side": plan.method.side,
        "images": {f"x{scale:g}": first.keys(scale) for scale in first.scales},
        "note": plan.method.note,
        "facts": {
            what: value if isinstance(value, str) else short(value)
            for what, value in ({} if facts is None else facts(plan.trained)).items()
        },
        "trainings": _times(notes, "fit "),
        "evaluations": _times(notes, "test "),
        "gate": gate,
        "rows": {
            row.name: {
                "label": row.label,
                "listed": row.data is None,
                "control": row.control,
                "options": list(row.options),
                "sets": _sets(measured[row.name]),
                "against_control": _against(row, measured) if gate["open"] else [],
                "self_ssim": _self_ssim(plan.run_of(row.name + SAME)),
            }
            for row in rows
        },
        "claims": [_judged(claim, measured, gate) for claim in claims],
        "tables": _further(plan) if gate["open"] else {},
        "plane": list(plan.method.plane),
        "strips": list(strips(plan)),
    }


def strips(plan: Plan) -> dict[str, Path]:
    """Pictures that runs wrote themselves, by what they show; none before all rows are there."""
    found = plan.method.strips
    whole = len(plan.rows) == len(plan.method.rows)
    return found(plan.run_of, plan.trained) if found is not None and whole else {}


def _further(plan: Plan) -> dict[str, Any]:
    tables = plan.method.tables
    if tables is None or len(plan.rows) < len(plan.method.rows):
        return {}
    labels = {row.name: row.label for row in plan.rows if row.data is None}
    return {
        heading: {
            row: {column: short(value) for column, value in cells.items()}
            for row, cells in table.items()
        }
        for heading, table in tables(plan.run_of, labels).items()
    }


def _times(notes: dict[str, Note], verb: str) -> dict[str, dict[str, Any]]:
    return {
        name.removeprefix(verb): note.cost()
        for name, note in notes.items()
        if name.startswith(verb)
    }


def _sets(row: Measured) -> dict[str, dict[str, dict[str, float | str]]]:
    """By set, scale and metric; deviations over the seeds as ``<metric>_std``."""
    found: dict[str, dict[str, dict[str, float | str]]] = {}
    for result in row.results:
        by_scale = found.setdefault(set_of(result["dataset"]), {})
        numbers = by_scale.setdefault(f"x{result['scale']:g}", {})
        numbers[result["metric"]] = short(result["value"])
        if "std" in result and result["metric"] not in COST:
            numbers[f"{result['metric']}_std"] = short(result["std"])
    together: dict[str, dict[str, float | str]] = {}
    for scale in row.scales:
        numbers = together.setdefault(f"x{scale:g}", {"n": len(row.keys(scale))})
        for metric in (*PER_IMAGE, SWD):
            means = row.means(metric, scale)
            if not means:
                continue
            numbers[metric] = short(statistics.fmean(means))
            if len(means) > 1:
                numbers[f"{metric}_std"] = short(statistics.stdev(means))
    return {ALL: together, **found}


def _self_ssim(run: Path) -> dict[str, float | str]:
    """By pair of scales, such as ``x8_from_x4``; none of a row that was not asked."""
    path = run / "results.json"
    results = load_results(path)["results"] if path.is_file() else []
    return {
        f"x{result['scale']:g}{result['metric'].removeprefix(SelfSSIM.name)}": short(
            result["value"]
        )
        for result in results
    }


def _against(row: Row, measured: dict[str, Measured]) -> list[dict[str, Any]]:
    if row.control == row.name or row.control not in measured:
        return []
    a, b = measured[row.name], measured[row.control]
    found = [difference(a, b, metric, scale) for metric in JUDGED for scale in a.scales]
    return [apart.stored() for apart in found if apart is not None]


def _judged(claim: Claim, measured: dict[str, Measured], gate: dict[str, Any]) -> dict[str, Any]:
    a, b = measured[claim.better], measured[claim.than]
    scales = [s for s in a.scales if claim.scales is None or s in claim.scales]
    bicubic = measured.get(BICUBIC)
    found = [difference(a, b, m, scale, bicubic) for m in claim.metrics for scale in scales]
    return {
        "claim": claim.text,
        "better": claim.better,
        "than": claim.than,
        "judged": [apart.stored() for apart in found if apart is not None] if gate["open"] else [],
    }


def _gate(plan: Plan) -> dict[str, Any]:
    gate, path = plan.method.gate, plan.run_of("gate") / "results.json"
    if gate is None or not path.is_file():
        return {"open": True}
    return gate_of(gate, load_results(path)["results"])


def gate_of(gate: Gate, results: list[Any]) -> dict[str, Any]:
    """What the base reached, and whether that is enough to compare anything.

    Args:
        gate: What it has to reach.
        results: Of its test, bicubic among them.
    """
    psnr = {
        r["checkpoint"] == BICUBIC: r["value"]
        for r in results
        if (r["dataset"], r["metric"], r["scale"]) == (gate.dataset, "psnr", gate.scale)
    }
    return {
        "open": bool(psnr[False] - psnr[True] >= gate.margin),
        "what": f"{gate.training}, {gate.dataset} x{gate.scale:g}, PSNR-Y",
        "reached": short(psnr[False]),
        "bicubic": short(psnr[True]),
        "margin": gate.margin,
    }


# ----------------------------------------------------------------------------------- the page
def markdown(report: dict[str, Any], name: str) -> str:
    """The page's part on the miniature: every word about a result is made from the numbers.

    Args:
        report: As the JSON file holds it.
        name: Of the method: the picture's file is named after it.
    """
    results = report["results"]
    pictures = f"../../benchmarks/results/{name}_miniature"
    seeds = len(results["seeds"])
    crops = max(len(keys) for keys in results["images"].values())
    text = [
        f"{crops} crops of {results.get('side', 192)} pixels at each scale; means over "
        f"{seeds} seed{'s' * (seeds != 1)} for what samples, with their deviation. "
        f"{results['note']}",
        f"{made(report, f'{pictures}.json', each=True)}.",
        _gate_text(results["gate"]),
    ]
    if facts := results.get("facts"):
        text.append(
            "\n".join(
                f"- {what}: {value if isinstance(value, str) else format(value, '.4g')}"
                for what, value in facts.items()
            )
        )
    measured = {m for r in _listed(results) for s in r["sets"][ALL].values() for m in s}
    for metric, heading in COLUMNS.items():
        if metric not in measured:
            continue
        text.append(f"**{heading}**\n\n{_table(results, metric)}")
    text.append(
        "▼: worse than its control (in brackets; the 95 % interval over images excludes 0). "
        "Higher is better for PSNR and SSIM, lower for all others; a lattice of 1 is none."
    )
    several = len(_scales(results)) > 1
    what = "calls of networks, a cascade's base apart" + " / seconds an image" * several
    text.append(f"**Cost**: {what}\n\n{(_costs if several else _cost)(results)}")
    if any(row["self_ssim"] for row in _listed(results)):
        text.append(
            "**SelfSSIM** of outputs of one LR: the mean over pairs of scales, both ways"
            f"\n\n{_agreement(results)}"
        )
    for heading, table in results.get("tables", {}).items():
        text.append(f"**{heading}**\n\n{_further_table(table)}")
    text.append(_claims(results))
    text.append(f"![Crops]({pictures}.png)")
    for number, what in enumerate(results.get("strips", []), 1):
        text.append(f"{what}:\n\n![{what}]({pictures}_strip_{number}.png)")
    for metric in results.get("plane", []):
        text.append(f"![{COLUMNS[metric]} against PSNR, a point a row]({pictures}_{metric}.svg)")
    return "\n\n".join(filter(None, text)) + "\n"


def _gate_text(gate: dict[str, Any]) -> str:
    if "what" not in gate:
        return ""  # there is none, or no row that was asked for needs it
    ahead = gate["reached"] - gate["bicubic"]
    return (
        f"Gate ({gate['what']}): {gate['reached']:.2f} dB, bicubic {gate['bicubic']:.2f}, "
        f"{ahead:+.2f}; needed {gate['margin']:+.1f}: "
        f"{'passed.' if gate['open'] else f'not passed. {WEAK}'}"
    )


def _scales(results: dict[str, Any]) -> list[str]:
    found = {scale for row in _listed(results) for scale in row["sets"][ALL]}
    return sorted(found, key=lambda scale: float(scale[1:]))


def _grid(first: str, columns: list[str], rows: list[list[str]]) -> str:
    lines = [[first, *columns], ["---", *["---:"] * len(columns)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _table(results: dict[str, Any], metric: str) -> str:
    scales, labels = _scales(results), {k: r["label"] for k, r in results["rows"].items()}
    rows = []
    for name, row in results["rows"].items():
        if not row.get("listed", True):
            continue
        lost = {
            f"x{apart['scale']:g}"
            for apart in row["against_control"]
            if apart["metric"] == metric and apart["verdict"] == "does not hold"
        }
        named = row["control"] != name and row["control"] in labels
        control = f" ({labels[row['control']]})" if named else ""
        cells = [_cell(row["sets"][ALL].get(s, {}), metric, s in lost) for s in scales]
        rows.append([row["label"] + control, *cells])
    return _grid("", scales, rows)


def _cell(numbers: dict[str, Any], metric: str, lost: bool) -> str:
    if metric not in numbers:
        return "-"
    digits, deviation = DIGITS[metric], numbers.get(f"{metric}_std")
    more = "" if deviation is None else f" ± {deviation:.{digits}f}"
    return f"{numbers[metric]:.{digits}f}{more}{' ▼' if lost else ''}"


def _further_table(table: dict[str, dict[str, float]]) -> str:
    columns = list(dict.fromkeys(column for cells in table.values() for column in cells))
    rows = [
        [label, *(format(cells[c], ".4g") if c in cells else "-" for c in columns)]
        for label, cells in table.items()
    ]
    return _grid("", columns, rows)


def _listed(results: dict[str, Any]) -> list[dict[str, Any]]:
    return [row for row in results["rows"].values() if row.get("listed", True)]


def _costs(results: dict[str, Any]) -> str:
    scales, rows = _scales(results), []
    for row in _listed(results):
        sets = [by_scale for name, by_scale in row["sets"].items() if name != ALL]
        cells = []
        for scale in scales:
            found = [s[scale] for s in sets if "seconds" in s.get(scale, {})]
            seconds = [numbers["seconds"] for numbers in found]
            calls = found[0]["calls"] if found else 0
            cells.append(f"{calls:g} / {statistics.fmean(seconds):.2f}" if found else "-")
        rows.append([row["label"], *cells])
    return _grid("", scales, rows)


def _cost(results: dict[str, Any]) -> str:
    """At one scale: a column each for what was counted; sets are as one."""
    (scale,), rows = _scales(results), dict[str, dict[str, float]]()
    for row in _listed(results):
        sets = [found.get(scale, {}) for name, found in row["sets"].items() if name != ALL]
        measured = {what: [s[what] for s in sets if what in s] for what in COST}
        rows[row["label"]] = {
            what: max(values) if what == "memory" else statistics.fmean(values)
            for what, values in measured.items()
            if values
        }
    columns = {key: title for key, title in COST.items() if any(key in c for c in rows.values())}
    return _grid(
        "",
        [*columns.values()],
        [
            [label, *(f"{found[key]:.3g}" if key in found else "-" for key in columns)]
            for label, found in rows.items()
        ],
    )


def _agreement(results: dict[str, Any]) -> str:
    rows = [
        [row["label"], f"{statistics.fmean(row['self_ssim'].values()):.4f}"]
        for row in _listed(results)
        if row["self_ssim"]
    ]
    return _grid("", ["SelfSSIM"], rows)


def _claims(results: dict[str, Any]) -> str:
    if not results["gate"]["open"]:
        return WEAK
    if not results["claims"]:
        return ""
    scales, labels = _scales(results), {k: r["label"] for k, r in results["rows"].items()}
    rows = []
    for claim in results["claims"]:
        for metric in dict.fromkeys(apart["metric"] for apart in claim["judged"]):
            found = {
                f"x{apart['scale']:g}": _judgement(apart)
                for apart in claim["judged"]
                if apart["metric"] == metric
            }
            who = f"{claim['claim']} ({labels[claim['better']]} - {labels[claim['than']]})"
            heading = f"{who}, {COLUMNS[metric].partition(',')[0]}"
            rows.append([heading, *(found.get(scale, "-") for scale in scales)])
    explained = (
        "**Claims**: the difference, its 95 % interval over images, and what follows: a claim "
        "holds where the interval lies on its side of 0, does not hold where it lies on the other."
    )
    return f"{explained}\n\n{_grid('', scales, rows)}"


def _judgement(apart: dict[str, Any]) -> str:
    digits = DIGITS[apart["metric"]]
    between = ""
    if apart["interval"] is not None:
        low, high = (f"{end:+.{digits}f}" for end in apart["interval"])
        between = f" ({low} to {high})"
    return f"{apart['difference']:+.{digits}f}{between}: **{shown(apart)}**"
