"""Results of `benchmarks.soak`: equality of two runs, slopes of what they used, and the page."""

from __future__ import annotations

import statistics
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from scipy import stats

from benchmarks.soak.faults import KINDS
from benchmarks.soak.parts import TRACE
from benchmarks.soak.run import Usage

WARM = 60.0  # seconds after which a process is no longer growing into its buffers
SETTLED = 900.0  # and after which its heap has found its size: first each larger piece makes a hole
TOGETHER = 30.0  # seconds whose looks are one point, or neighbours would count as independent

# A process that faults end lives for minutes and sees some of them: a file each second fault.
FAULTS = 12.0  # an hour, of the growth of open files within such processes
SHOWN = {  # unit, its size in bytes or pieces, and the growth an hour that counts as none
    "memory": ("MB", 1e6, 10.0),
    "used": ("MB", 1e6, 10.0),
    "descriptors": ("descriptors", 1.0, 1.0),
}


class Line(NamedTuple):
    """What a run's trace says about a batch. See `benchmarks.soak.parts.Trace`."""

    crops: str
    state: str
    left_out: int
    replaced: int


def trace_of(folder: Path) -> tuple[dict[int, Line], int, int]:
    """The trace of a run.

    Args:
        folder: Of the run.

    Returns:
        The latest line of each batch by its place, how many lines there are with those of batches
        that were done again, and how many of these say something else than the line before.
    """
    lines: dict[int, Line] = {}
    count = changed = 0
    for path in sorted((folder / TRACE).glob("start-*.txt")):
        for text in path.read_text(encoding="utf-8").rpartition("\n")[0].splitlines():
            place, crops, state, left_out, replaced = text.split()
            line = Line(crops, state, int(left_out), int(replaced))
            changed += lines.get(int(place), line) != line
            lines[int(place)] = line
            count += 1
    return lines, count, changed


def compare(harmed: Path, whole: Path) -> dict[str, Any]:
    """Whether two runs did the same at each batch.

    Args:
        harmed: Folder of the one that faults happened to.
        whole: Folder of the other one.
    """
    ours, count, changed = trace_of(harmed)
    theirs, *_ = trace_of(whole)
    differ = sorted(p for p in ours.keys() | theirs.keys() if ours.get(p) != theirs.get(p))
    return {
        "batches": len(theirs),
        "batches done, repeated ones included": count,
        "batches that differed when they were repeated": changed,
        "batches whose crops or state differ from the undisturbed run's": len(differ),
        "the first of them": differ[0] if differ else None,
        "states that are distinct": len({line.state for line in theirs.values()}),
        "steps left out": [max(line.left_out for line in t.values()) for t in (ours, theirs)],
        "samples replaced": [sum(line.replaced for line in t.values()) for t in (ours, theirs)],
    }


# ----------------------------------------------------------------------------------------- slopes
def slope_of(
    points: Sequence[tuple[int, float, float]], size: float = 1.0
) -> dict[str, float | int] | None:
    """Slope an hour within groups, by linear regression with a level for each group.

    Args:
        points: Group, seconds and value.
        size: Of the unit of the result.

    Returns:
        slope, and low and high of its interval of 95 %; mean of the values; points. None where
        there are too few.
    """
    groups = np.array([group for group, *_ in points])
    if len(points) < len(set(groups.tolist())) + 2:
        return None
    hours = np.array([seconds for _, seconds, _ in points]) / 3600
    values = np.array([value for *_, value in points]) / size
    mean = values.mean()
    for group in set(groups.tolist()):
        hours[groups == group] -= hours[groups == group].mean()
        values[groups == group] -= values[groups == group].mean()
    spread = (hours**2).sum()
    if not spread:
        return None
    slope = (hours * values).sum() / spread
    free = len(points) - len(set(groups.tolist())) - 1
    error = np.sqrt(((values - slope * hours) ** 2).sum() / free / spread)
    reach = stats.t.ppf(0.975, free) * error
    found = {"slope": slope, "low": slope - reach, "high": slope + reach, "mean": mean}
    return {**{name: round(float(v), 3) for name, v in found.items()}, "points": len(points)}


def lasting(
    usage: Sequence[Usage], what: str, warm: float
) -> dict[int, list[tuple[Usage, list[Any]]]]:
    """What a run's processes used when they were warm, of those that were there at each look.

    That is the process that trains and its own workers. Those of a validation live until the next
    one, two pairs for a moment, and would count by how often that is; what they take for good, the
    others have.

    Args:
        usage: Of a run.
        what: A field of `Usage`.
        warm: Age from which on they count.

    Returns:
        Of each start its looks, each with what these processes used.
    """
    of: dict[int, list[Usage]] = defaultdict(list)
    for look in usage:
        if look.age >= warm:
            of[look.start].append(look)
    found = {}
    for start, looks in sorted(of.items()):
        used = [getattr(look, what) for look in looks]
        numbers = set.intersection(*map(set, used))
        amounts = ([of_each[number] for number in numbers] for of_each in used)
        found[start] = list(zip(looks, amounts, strict=True))
    return found


def together(usage: Sequence[Usage], what: str, warm: float) -> list[tuple[int, float, float]]:
    """Medians of half a minute each of what the lasting processes used. Args as `lasting`.

    Returns:
        The process's number, seconds and value.
    """
    points = []
    for start, looks in lasting(usage, what, warm).items():
        parts: dict[int, list[tuple[float, float]]] = defaultdict(list)
        for look, amounts in looks:
            value = float(sum(a.total() if isinstance(a, Counter) else a for a in amounts))
            parts[int((look.age - warm) // TOGETHER)].append((look.seconds, value))
        for _, values in sorted(parts.items()):
            seconds, value = (statistics.median(column) for column in zip(*values, strict=True))
            points.append((start, seconds, value))
    return points


def kinds_of(usage: Sequence[Usage], warm: float) -> dict[str, list[float]]:
    """Open files of the lasting processes by what they are, as means over a run's starts.

    Args:
        usage: Of a run.
        warm: Age from which on they count.

    Returns:
        Of each kind how many there were in the first half minute, in the last one, and at most.
    """
    found: dict[str, list[tuple[float, float, int]]] = defaultdict(list)
    for looks in lasting(usage, "descriptors", warm).values():
        sums = [(look.age, sum(amounts, Counter[str]())) for look, amounts in looks]
        first, last = sums[0][0] + TOGETHER, sums[-1][0] - TOGETHER
        for kind in {kind for _, kinds in sums for kind in kinds}:
            early = statistics.fmean(kinds[kind] for age, kinds in sums if age <= first)
            late = statistics.fmean(kinds[kind] for age, kinds in sums if age >= last)
            found[kind].append((early, late, max(kinds[kind] for _, kinds in sums)))
    return {
        kind: [round(statistics.fmean(column), 1) for column in zip(*values, strict=True)]
        for kind, values in sorted(found.items())
    }


def slopes(
    harmed: Sequence[Usage], whole: Sequence[Usage], warm: float, settled: float
) -> dict[str, Any]:
    """Growth of memory and descriptors: within one long process, within processes, over restarts.

    That of memory is not looked for within the processes that faults end: they are young, and the
    undisturbed one grows at that age, too.

    Args:
        harmed: What the run used that faults happened to.
        whole: What the other one used.
        warm: Seconds after the first batches from which on a process counts.
        settled: And its resident memory within one long process.
    """
    found: dict[str, Any] = {}
    for what, (_, size, _) in SHOWN.items():
        short = together(harmed, what, warm)
        since = settled if what == "memory" else warm
        starts = defaultdict(list)
        for start, seconds, value in short:
            starts[start].append((seconds, value))
        means = [
            (0, *(statistics.fmean(column) for column in zip(*looks, strict=True)))
            for looks in starts.values()
        ]
        found[what] = {
            "undisturbed": slope_of(together(whole, what, since), size),
            "within processes": slope_of(short, size) if what == "descriptors" else None,
            "over restarts": slope_of(means, size),  # type: ignore[arg-type]
        }
    return found


# ------------------------------------------------------------------------------------- its summary
def by_kind(recorded: Sequence[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Count each kind of fault, with the statuses and the time until it trained again."""
    kinds: dict[str, dict[str, Any]] = {}
    for kind in (*KINDS, "nothing"):
        lines = [line for line in recorded if line["kind"] == kind]
        if not lines:
            continue
        waited = [s for line in lines if (s := line.get("seconds until it trains")) is not None]
        lost = [line["batches lost"] for line in lines if "batches lost" in line]
        statuses = Counter(str(line["status"]) for line in lines if line["status"] is not None)
        kinds[kind] = {
            "count": len(lines),
            "statuses": dict(statuses),
            "as expected": all(line["expected"] for line in lines),
            "batches lost, at most": max(lost, default=0),
            "seconds until it trains, median": statistics.median(waited) if waited else None,
        }
    return kinds


def verdict(results: dict[str, Any]) -> list[str]:
    """What is wrong; nothing if the soak went well."""
    same = results["same"]
    wrong = [
        name
        for name in (
            "batches that differed when they were repeated",
            "batches whose crops or state differ from the undisturbed run's",
        )
        if same[name]
    ]
    wrong += [] if results["final checkpoint is bit-equal"] else ["the final checkpoints differ"]
    wrong += [
        f"{kind}: not as expected"
        for kind, of in results["faults"].items()
        if not of["as expected"]
    ]
    wrong += [
        f"{name}: grows by at least {slope['low']:g} {unit} an hour"
        for name, slope, most, unit in _judged(results["growth an hour"])
        if slope["low"] > most
    ]
    return wrong


def undecided(growth: dict[str, Any]) -> list[str]:
    """Growth that may be none and may be more than that, so wide are the intervals.

    Args:
        growth: What `slopes` returns.
    """
    unknown = [
        f"{name}: up to {slope['high']:g} {unit} an hour"
        for name, slope, most, unit in _judged(growth)
        if slope["low"] <= most < slope["high"]
    ]
    for what, of in growth.items():
        missing = [where for where in ("undisturbed", "over restarts") if of[where] is None]
        unknown += [f"{what} {where}: too few looks" for where in missing]
    return unknown


def _judged(growth: dict[str, Any]) -> Iterator[tuple[str, dict[str, float], float, str]]:
    """Each slope that there is: its name, itself, the growth that counts as none, and the unit."""
    for what, (unit, _, flat) in SHOWN.items():
        for where, slope in growth[what].items():
            if slope is not None:
                most = FAULTS if where == "within processes" else flat
                yield f"{what} {where}", slope, most, unit
