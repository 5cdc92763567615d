"""Miniatures of generators: one size, sets of samples, and what the base is asked first.

As ``benchmarks.miniature.spec`` has it for super-resolvers, whose tables are by scale.
"""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.miniature.jobs import Note
from benchmarks.miniature.made import made, time_of
from benchmarks.miniature.numbers import short
from benchmarks.miniature.plan import Plan
from benchmarks.miniature.samples import (
    References,
    Samples,
    difference,
    features,
    folder_of,
    kept,
    near_of,
    parts,
    real_of,
    swd_of,
    thumbnails,
    trained_on,
)
from benchmarks.miniature.spec import Generators
from callbacks.metrics.fid import KIDThumb
from callbacks.report.runs import Curve, read_run
from callbacks.results.files import load_results
from commands.run.files import FOLDER, best_or_newest

_NEAREST = (
    "nearest the distance to the nearest training picture over that of pictures that were not "
    "trained on"
)
_FLICKER = (
    "flicker the change from frame to frame, in levels of 8 bits, that no motion explains: "
    "best where real clips have it"
)
WEAK = "Base too weak, no comparison."
WATCHED = {
    "SWD": ("val/swd", "val/frame_swd"),
    "KID-thumb x 1000": ("val/kid_thumb", "val/frame_kid_thumb"),
}
TIMES_1000 = ("kid_base", "kid_real")
COLUMNS = {
    **{"swd": "SWD", "swd_2": "SWD, halved", "swd_3": "SWD, quartered"},
    **{"kid_base": "KID-thumb, base", "kid_real": "KID-thumb, real"},
    **{"repetition": "repetition", "memorised": "nearest", "flicker": "flicker"},
}


def collect(plan: Plan) -> dict[str, Any]:
    """All numbers of the rows that are wanted, with what may be said of them.

    Args:
        plan: Its commands are done.

    Returns:
        What JSON holds.
    """
    method = _generators(plan)
    jobs = {job.name: job.note() for job in plan.jobs()}
    real, names = kept(real_of(plan.run_of(plan.rows[0].name)))
    training = trained_on(plan.data)
    base = _base_samples(plan, method)
    gate = gate_of(base, real, training, method)
    known = _references(real, names, training, base, method)
    rows = {row.name: _samples(plan, row.name, known, method.side) for row in plan.rows}
    claims = [claim for claim in method.claims if {claim.better, claim.than} <= rows.keys()]
    return {
        "seeds": list(plan.seeds),
        "steps": plan.steps,
        "samples": len(real) // method.frames,
        "frames": method.frames,
        "side": method.side,
        "note": method.note,
        "gate": gate,
        "trainings": {t.name: _trained(plan, t.name, jobs[f"fit {t.name}"]) for t in _fits(plan)},
        "evaluations": {n.removeprefix("test "): vars(v) for n, v in jobs.items() if "test" in n},
        "rows": {
            row.name: {
                "label": row.label,
                "training": row.weights,
                "numbers": {**_summary(rows[row.name].numbers()), **_flicker(plan, row.name)},
                "cost": _cost(plan.run_of(row.name)),
            }
            for row in plan.rows
        },
        "real": {
            **_floor(training, known, method.side),
            **_flicker(plan, plan.rows[0].name, "_real"),
        },
        "claims": [
            {
                **{"claim": claim.text, "better": claim.better, "than": claim.than},
                "judged": [
                    difference(rows[claim.better], rows[claim.than], metric).stored()
                    for metric in claim.metrics
                ]
                if gate["open"]
                else [],
            }
            for claim in claims
        ],
        "curves": validations(plan),
    }


def validations(plan: Plan) -> dict[str, dict[str, list[list[float]]]]:
    """By label of a training and metric, points of (step, value)."""
    there = {training.name for training in _fits(plan)}
    curves = _generators(plan).curves.items()
    return {label: _curves(plan.trained(name)) for name, label in curves if name in there}


def gate_of(base: Tensor, real: Tensor, training: Tensor, method: Generators) -> dict[str, Any]:
    """What the base reached at its own size, and whether that is enough to compare anything.

    Args:
        base: (M, 3, side, side) samples.
        real: (N, 3, H, W) that were not trained on.
        training: (K, 3, H, W); as many as samples are compared with ``real``, several times.
        method: With the margin.
    """
    count = min(len(base), len(real), len(training))
    held, trained = (thumbnails(x, method.side) for x in (real[:count], training))
    of_real = [swd_of(part, held, 2) for part in parts(trained, count)]
    reached = swd_of(base[:count], held, 2)
    floor = {name: statistics.fmean(found[name] for found in of_real) for name in reached}
    return {
        "open": reached["swd"] <= method.margin * floor["swd"],
        "n": count,
        "reached": {name: short(value) for name, value in reached.items()},
        "real": {name: short(value) for name, value in floor.items()},
        "margin": method.margin,
    }


def _generators(plan: Plan) -> Generators:
    if not isinstance(plan.method, Generators):
        raise TypeError(f"{plan.name} is no miniature of generators")
    return plan.method


def _base_samples(plan: Plan, method: Generators) -> Tensor:
    return kept(plan.trained(method.samples) / "predict")[0]


def _references(
    real: Tensor, names: list[str], training: Tensor, base: Tensor, method: Generators
) -> References:
    batch: Any = {"key": [str(number) for number in range(len(base))]}
    return References(
        features(real, names, method.side, method.frames),
        near_of(training),
        KIDThumb().finite_features(base, batch).double(),
        method.frames,
    )


def _samples(plan: Plan, row: str, known: References, side: int) -> Samples:
    run = plan.run_of(row)
    return Samples([features(*kept(f), side, known.frames) for f in _seeds(plan, run)], known)


def _seeds(plan: Plan, run: Path) -> list[Path]:
    folders = [folder_of(run, str(seed)) for seed in plan.seeds]
    missing = [str(folder) for folder in folders if not folder.is_dir()]
    if missing:  # a mean over fewer seeds would stand in the same table
        raise ValueError(
            f"{missing[0]} is not there, where {run.name} keeps its samples of a seed: remove "
            f"{run} and start the miniature again"
        )
    return folders


def _fits(plan: Plan) -> list[Any]:
    wanted = {job.name.removeprefix("fit ") for job in plan.jobs()}
    return [t for t in plan.method.trainings if t.verb == "fit" and t.name in wanted]


def _trained(plan: Plan, name: str, note: Note) -> dict[str, Any]:
    """Trained parameters, steps of the checkpoint that is tested, and the time of the whole fit."""
    checkpoint = best_or_newest(plan.trained(name) / FOLDER)
    if checkpoint is None:
        return note.cost()
    content = torch.load(checkpoint[0], map_location="cpu", weights_only=True)
    # What the optimiser keeps moments of: a checkpoint also has buffers.
    moments = content["optimizer_states"][0]["state"].values()
    return {
        "parameters": sum(max(t.numel() for t in own.values()) for own in moments),
        "steps": content["global_step"],
        "chosen": checkpoint[1],
        **note.cost(),
    }


def _floor(training: Tensor, known: References, side: int) -> dict[str, Any]:
    """The numbers of real pictures that are not those of the references, as many as a row has."""
    names = [f"training/{number}" for number in range(len(known.real.near))]
    sets = [features(part, names, side, known.frames) for part in parts(training, len(names))]
    numbers = Samples(sets, known).numbers()
    numbers.pop("memorised", None)  # they are the training pictures
    return _summary(numbers)


def _summary(numbers: dict[str, list[float]]) -> dict[str, float | str]:
    found: dict[str, float | str] = {}
    for name, values in numbers.items():
        found[name] = short(statistics.fmean(values))
        if len(values) > 1:
            found[f"{name}_std"] = short(statistics.stdev(values))
    return found


def _cost(run: Path) -> dict[str, float | str]:
    results = load_results(run / "results.json")["results"]
    return {r["metric"]: short(r["value"]) for r in results if r["metric"] in ("seconds", "calls")}


def _flicker(plan: Plan, row: str, of: str = "") -> dict[str, float | str]:
    """Of clips; of pictures nothing."""
    found = load_results(plan.run_of(row) / "results.json")["results"]
    name = f"flicker{of}"
    return {
        key: short(value)
        for result in found
        if result["metric"] == name
        for key, value in (("flicker", result["value"]), ("flicker_std", result.get("std")))
        if value is not None
    }


def _curves(run: Path) -> dict[str, list[list[float]]]:
    curves: dict[str, Curve] = read_run(run, run.name).curves
    return {
        name: [list(point) for point in zip(curves[tag].steps, curves[tag].values, strict=True)]
        for name, tags in WATCHED.items()
        for tag in tags
        if tag in curves
    }


# ----------------------------------------------------------------------------------- the page
def markdown(report: dict[str, Any], name: str) -> str:
    """The page's part on the miniature: every word about a result is made from the numbers.

    Args:
        report: As the JSON file holds it.
        name: Of the method: the pictures' files are named after it.
    """
    results = report["results"]
    picture = f"../../benchmarks/results/{name}_miniature"
    clips = f", clips of {results['frames']} frames" if results["frames"] > 1 else ""
    text = [
        f"{results['samples']} samples a row{clips}, {_of_seeds(results['seeds'])} real against "
        f"real is over sets of as many real pictures. {results['note']}",
        f"{made(report, f'{picture}.json')}.",
        _gate_text(results),
        _table(results),
        "KID-thumb is times 1000, against samples of the base of other seeds, and against real "
        "pictures. Lower is better for SWD and KID-thumb; repetition is above that of real "
        f"pictures, {_FLICKER if clips else _NEAREST}. Steps are those of the checkpoint that "
        "is tested; seconds of training are with its validations.",
        _claims(results),
        f"![Samples, a line a row, of the same seeds]({picture}.png)",
        f"![Validation by steps of training]({picture}_curves.png)" if results["curves"] else "",
    ]
    return "\n\n".join(filter(None, text)) + "\n"


def _of_seeds(seeds: list[int]) -> str:
    if len(seeds) == 1:
        return f"of seed {seeds[0]}. ± of"
    return f"of {len(seeds)} seeds each: the mean, and the deviation over seeds. That of"


def _gate_text(results: dict[str, Any]) -> str:
    gate = results["gate"]
    reached, real = gate["reached"]["swd"], gate["real"]["swd"]
    what = "frames" if results["frames"] > 1 else "samples"
    passed = "passed." if gate["open"] else f"not passed. {WEAK}"
    return (
        f"Gate: SWD of {gate['n']} {what} of the base to real ones of {results['side']} px is "
        f"{reached:.3f}, that of as many others {real:.3f}; at most "
        f"{gate['margin']:g} times that is asked for, it is {reached / real:.2f} times: {passed}"
    )


def _table(results: dict[str, Any]) -> str:
    other = "flicker" if results["frames"] == 1 else "memorised"
    shown, rows = {k: v for k, v in COLUMNS.items() if k != other}, results["rows"].values()
    each = "s a clip" if results["frames"] > 1 else "s a picture"
    trainings = results["trainings"]
    time = time_of(trainings[row["training"]] for row in rows if row["training"] in trainings)
    unit = "CPU s" if time == "cpu_seconds" else "s"
    head = ["", "parameters", "steps", f"training, {unit}", *shown.values(), "calls", each]
    lines = [head, ["---", *["---:"] * (len(head) - 1)]]
    for row in rows:
        trained = trainings.get(row["training"], {})
        own = [
            f"{trained[key]:,.0f}" if key in trained else "-"
            for key in ("parameters", "steps", time)
        ]
        cost = row["cost"]
        cells = [_cell(row["numbers"], metric) for metric in shown]
        asked = [f"{cost['calls']:g}", f"{cost['seconds']:.2f}"] if cost else ["-", "-"]
        lines.append([row["label"], *own, *cells, *asked])
    real = [_cell(results["real"], metric) for metric in shown]
    lines.append(["real against real", "-", "-", "-", *real, "-", "-"])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cell(numbers: dict[str, Any], metric: str) -> str:
    if metric not in numbers:
        return "-"
    factor, digits = (1000, 1) if metric in TIMES_1000 else (1, 3)
    deviation = numbers.get(f"{metric}_std")
    more = "" if deviation is None else f" ± {factor * deviation:.{digits}f}"
    return f"{factor * numbers[metric]:.{digits}f}{more}"


def _claims(results: dict[str, Any]) -> str:
    if not results["gate"]["open"]:
        return WEAK
    labels = {name: row["label"] for name, row in results["rows"].items()}
    lines = [["", "", "difference", ""], ["---", "---", "---:", "---"]]
    for claim in results["claims"]:
        who = f"{claim['claim']} ({labels[claim['better']]} - {labels[claim['than']]})"
        for apart in claim["judged"]:
            factor, digits = (1000, 1) if apart["metric"] in TIMES_1000 else (1, 3)
            ends = [f"{factor * end:+.{digits}f}" for end in apart["interval"] or ()]
            between = f" ({' to '.join(ends)})" if ends else ""
            number = f"{factor * apart['difference']:+.{digits}f}{between}"
            lines.append([who, COLUMNS[apart["metric"]], number, f"**{apart['verdict']}**"])
    explained = (
        "**Claims**: the difference, its 95 % interval over samples, and what follows: a claim "
        "holds where the interval lies below 0, does not hold where it lies above."
    )
    return f"{explained}\n\n" + "\n".join(f"| {' | '.join(line)} |" for line in lines)
