"""The page of a report: its tables, curves and figures."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from callbacks.evaluation import MetricProtocol
from callbacks.pages.render import Figure, Tile, embedded, render_page
from callbacks.provenance import Provenance
from callbacks.report.images import Evaluation, ReportImage
from callbacks.report.runs import Curve, Run, setting
from callbacks.results.files import (
    Result,
    column_of,
    columns,
    counts_of,
    describe,
    rows_of,
    shown_value,
)

WIDTH, HEIGHT = 360, 200
LEFT, RIGHT, TOP, BOTTOM = 46, 12, 10, 24  # margins
POINTS = 400  # of a line; more values are averaged
COLORS = 8  # classes `series-0` ... of report.css
LOGARITHMIC = 8.0  # a positive range with at least this ratio has a logarithmic axis
Places = list[tuple[float, float]]  # x and y in the drawing
TITLES = {"bicubic": "LR, bicubic", "hr": "HR"}
CONTROL = "bicubic"  # the checkpoint of a metric's control
TEMPLATE = Path(__file__).parent / "report.html.j2"
LEFT_OUT = ("epoch", "hp_metric")  # no measurements; those of `test` are in the table
ORDER = ("train", "val", "lr")  # of curves, by the first part of their names


class Axis(NamedTuple):
    """Map values to places in a drawing, on a logarithmic scale if ``log`` is set."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def place(self, value: float) -> float:
        """Return the place of a value, in units of the drawing."""
        low, high, at = (
            (math.log10(v) for v in (self.low, self.high, value))
            if self.log
            else (self.low, self.high, value)
        )
        return self.start + (at - low) / (high - low) * (self.end - self.start)

    def ticks(self, count: int = 4) -> list[tuple[float, str]]:
        """Return the place and the text of about ``count`` ticks."""
        found = log_ticks(self.low, self.high) if self.log else ticks(self.low, self.high, count)
        return [(self.place(value), short(value)) for value in found]


class Series(NamedTuple):
    """One run's line in a chart.

    color: Its number; ``COLORS`` of them exist.
    line: Places of its points; a single one is drawn as a dot.
    name: What a dot stands for.
    """

    color: int
    line: Places
    name: str = ""


class Chart(NamedTuple):
    """The drawing of one scalar.

    title: Name of the scalar.
    latest: The last value of each run.
    summary: The last values with their steps, for screen readers.
    note: What the drawing leaves out or averages; may be empty.
    """

    title: str
    latest: str
    summary: str
    x: Axis
    y: Axis
    series: list[Series]
    note: str


def chart(title: str, curves: Mapping[int, Curve]) -> Chart:
    """Lay out the drawing of one scalar.

    Args:
        title: Name of the scalar.
        curves: By the run's number, which chooses the colour; each has at least one value.
    """
    lines = {number: averaged(curve) for number, curve in curves.items()}
    x, y = _axes(list(lines.values()))
    summary = "; ".join(f"{c.values[-1]:.4g} at step {c.steps[-1]}" for c in curves.values())
    series = [
        Series(number % COLORS, [(x.place(step), y.place(value)) for step, value in line])
        for number, line in lines.items()
    ]
    return Chart(title, latest(curves), summary, x, y, series, _note(curves, y.log))


def charts_over(key: str, runs: Sequence[Run]) -> list[Chart]:
    """Lay out each number of the results over a hyperparameter, with a dot for each checkpoint.

    Args:
        key: The hyperparameter as on the command line, such as ``model.optimizer.lr``.
        runs: Those that are compared.

    Raises:
        ValueError: If a run's configuration has no number there.
    """
    found: dict[tuple[str, float, str], list[tuple[float, Result, int]]] = {}
    for number, run in enumerate(runs):
        at = setting(run, key)
        for result in run.results:
            if result["checkpoint"] != CONTROL and math.isfinite(result["value"]):
                drawing = (result["dataset"], result["scale"], column_of(result))
                found.setdefault(drawing, []).append((at, result, number))
    headings = columns([result for run in runs for result in run.results])
    charts = []
    for (dataset, scale, column), points in found.items():
        x = _axis([at for at, _, _ in points], LEFT, WIDTH - RIGHT)
        y = _axis([result["value"] for _, result, _ in points], HEIGHT - BOTTOM, TOP)
        sign = 1 if points[0][1].get("higher_is_better", True) else -1
        ranked = sorted((sign * result["value"], at) for at, result, _ in points)
        worst, best = ranked[0], ranked[-1]
        dots = [
            Series(
                number % COLORS,
                [(x.place(at), y.place(result["value"]))],
                f"{runs[number].name}: {result['value']:.4g} at {at:g}",
            )
            for at, result, number in points
        ]
        title = f"{headings[column][0]}, {dataset} x{scale:g}"
        summary = "; ".join(dot.name for dot in dots)
        logarithmic = [f"logarithmic {name}" for name, axis in (("x", x), ("y", y)) if axis.log]
        text = f"{sign * worst[0]:.4g} to {sign * best[0]:.4g} at {best[1]:g}, chance included"
        charts.append(Chart(title, text, summary, x, y, dots, "; ".join(logarithmic)))
    return charts


def latest(curves: Mapping[int, Curve]) -> str:
    """Return the last value of each run."""
    return " · ".join(f"{curve.values[-1]:.4g}" for curve in curves.values())


def averaged(curve: Curve, points: int = POINTS) -> Places:
    """Return steps and values; of more than ``points`` of them, means of neighbours."""
    parts = min(points, len(curve.steps))
    both = np.array([curve.steps, curve.values], np.float64)
    return [(float(a), float(b)) for a, b in (p.mean(1) for p in np.array_split(both, parts, 1))]


def ticks(low: float, high: float, count: int = 4) -> list[float]:
    """Return about ``count`` round numbers from ``low`` to ``high``."""
    rough = (high - low) / count
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= rough * (1 - 1e-9))
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [n * step for n in range(first, last + 1)]


def log_ticks(low: float, high: float) -> list[float]:
    """Return the powers of ten in a range, with multiples in between if there are few."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for factors in ((1,), (1, 3), (1, 2, 5)):
        found = [f * 10.0**p for p in powers for f in factors if low <= f * 10.0**p <= high]
        if len(found) >= 3:
            break
    return found


def short(value: float) -> str:
    """Format a number for an axis: 500000 is ``500k``."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if abs(value) >= size:
            divisor = 1e3 if letter == "k" else size
            return f"{value / divisor:.4g}{letter}"
    return f"{value:.4g}"


def _axes(lines: Sequence[Places]) -> tuple[Axis, Axis]:
    first, last = min(line[0][0] for line in lines), max(line[-1][0] for line in lines)
    x = Axis(first, last if last > first else first + 1, LEFT, WIDTH - RIGHT)
    return x, _axis([value for line in lines for _, value in line], HEIGHT - BOTTOM, TOP)


def _axis(values: Sequence[float], start: float, end: float) -> Axis:
    low, high = min(values), max(values)
    log = low > 0 and high / low >= LOGARITHMIC
    if not log:
        # A constant gets a range, too, and no line lies on the frame.
        margin = 0.05 * (high - low) or 0.05 * abs(high) or 1.0
        low, high = low - margin, high + margin
    return Axis(low, high, start, end, log)


def _note(curves: Mapping[int, Curve], log: bool) -> str:
    notes = ["logarithmic"] if log else []
    if any(len(curve.steps) > POINTS for curve in curves.values()):
        notes.append("means")
    if left_out := sum(curve.left_out for curve in curves.values()):
        notes.append(f"{left_out} values that are not finite are left out")
    return "; ".join(notes)


class Shown(NamedTuple):
    """An image of one run."""

    run: Run
    evaluation: Evaluation
    image: ReportImage


@dataclass
class Scene:
    """The same window of the same HR image, as restored by one or more runs.

    named: Whether methods are labelled by their run's name, as on a page of several runs.
    """

    dataset: str
    scale: float
    key: str
    named: bool
    shown: list[Shown] = field(default_factory=list)


def scenes(runs: Sequence[Run]) -> list[Scene]:
    """Return the images of all runs by dataset, those that most runs have first."""
    found: dict[str, Scene] = {}
    for run in runs:
        for evaluation in run.evaluations:
            for image in evaluation["images"]:
                name = (evaluation["dataset"], evaluation["scale"], image["key"])
                window = [image["size"], image["window"], image["files"].get("hr")]
                new = Scene(*name, named=len(runs) > 1)
                scene = found.setdefault(json.dumps([name, window]), new)
                scene.shown.append(Shown(run, evaluation, image))
    places = list(dict.fromkeys((scene.dataset, scene.scale) for scene in found.values()))
    return sorted(
        found.values(),
        key=lambda scene: (places.index((scene.dataset, scene.scale)), -len(scene.shown)),
    )


def tiles(scene: Scene) -> list[Tile]:
    """Return the images of a scene: bicubic, the methods', HR. Missing files are left out."""
    comparable = _comparable(scene)
    found = []
    for kind in ("bicubic", "sr", "hr"):
        having = [shown for shown in scene.shown if _file(shown, kind).is_file()]
        for shown in having if kind == "sr" else having[:1]:
            numbers = shown.image["numbers"].get(kind, {})
            values = {metric: numbers[metric] for metric in numbers if metric in comparable}
            caption = ", ".join(f"{metric} {value:.4g}" for metric, value in values.items())
            label = TITLES.get(kind) or (shown.run.name if scene.named else "output")
            found.append(Tile(label, embedded(_file(shown, kind).read_bytes()), caption))
    return found


def figure(scene: Scene, shown: list[Tile]) -> Figure:
    """Lay out a scene with its tiles, at least one."""
    _, _, height, width = scene.shown[0].image["window"]
    methods = [i for i, tile in enumerate(shown) if tile.label not in TITLES.values()] or [0]
    # Output against bicubic; with several runs, the last against the first.
    left = methods[0] if len(methods) > 1 else 0
    right = methods[-1] if methods[-1] != left else len(shown) - 1
    return Figure(scene.key, _about(scene), width, height, shown, left, right)


def _file(shown: Shown, kind: str) -> Path:
    """Return the path of an image; a folder, if there is none."""
    return shown.run.image_file(shown.image["files"].get(kind, ""))


def _comparable(scene: Scene) -> set[str]:
    """Return the metrics that all runs of a scene measured in the same way."""
    protocols: dict[str, list[MetricProtocol]] = {}
    for shown in scene.shown:
        for metric, protocol in shown.evaluation["protocols"].items():
            protocols.setdefault(metric, []).append(protocol)
    return {metric for metric, found in protocols.items() if all(p == found[0] for p in found)}


def _about(scene: Scene) -> str:
    image = scene.shown[0].image
    top, left, height, width = image["window"]
    words = f"{width}x{height} pixels"
    if tuple(image["size"]) != (width, height):
        whole = "{}x{}".format(*image["size"])
        words = f"{width}x{height} of {whole} pixels, from {left}, {top}"
    differing = len({shown.image["input"] for shown in scene.shown}) > 1
    return words + ("; the inputs of the runs differ" if differing else "")


class Cells(NamedTuple):
    """A row as it is shown.

    run: The run's number; None for bicubic, which runs of the same images share.
    weights: The full name of the checkpoint.
    values: One text per metric.
    images: Number of images.
    """

    dataset: str
    scale: float
    run: int | None
    weights: str
    name: str
    values: tuple[str, ...]
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


def results_table(runs: Sequence[Run]) -> ResultsTable | None:
    """Return the table of all results; None without any."""
    results = [result for run in runs for result in run.results]
    if not results:
        return None
    headings = columns(results)
    return ResultsTable(
        [f"{heading}{_arrow(column, results)}" for column, (heading, _) in headings.items()],
        sorted(set(_rows(runs, list(headings))), key=_order),
        [(heading, describe(protocol)) for heading, protocol in headings.values()],
        _seeds_note(results),
    )


def _arrow(column: str, results: list[Result]) -> str:
    found = next(r for r in results if column_of(r) == column).get("higher_is_better")
    return "" if found is None else " ↑" if found else " ↓"


def _rows(runs: Sequence[Run], metrics: list[str]) -> Iterator[Cells]:
    for number, run in enumerate(runs):
        for (dataset, scale, checkpoint), found in rows_of(run.results).items():
            control, weights = checkpoint == CONTROL, checkpoint or "none"
            yield Cells(
                dataset,
                scale,
                None if control else number,
                weights,
                Path(weights).name,
                tuple(shown_value(found[m]) if m in found else "-" for m in metrics),
                counts_of(found),
                control,
            )


def _order(row: Cells) -> tuple[Any, ...]:
    return row.dataset, row.scale, -1 if row.run is None else row.run, row.weights, row.values


def _seeds_note(results: list[Result]) -> str:
    known = [r.get("seeds") for r in results if r.get("std") is not None]
    counts = sorted({len(seeds) for seeds in known if seeds})
    if not counts:
        return ""
    return f"Mean ± standard deviation over {', '.join(map(str, counts))} seeds."


class Dataset(NamedTuple):
    """The figures of one dataset and scale.

    about: Which evaluations they are from.
    """

    title: str
    about: str
    figures: list[Figure]


def page(runs: Sequence[Run], limit: int | None = None, over: str | None = None) -> str:
    """Return the whole page.

    Args:
        runs: One or more.
        limit: It holds at most this many images of each dataset; None for all that were kept.
        over: A hyperparameter over which numbers are drawn.

    Raises:
        ValueError: If a run's configuration has no number there.
    """
    charts, single, drawn = _curves(runs)
    datasets, notes = _datasets(runs, limit)
    parts = {
        "Images": True,
        "Results": True,
        "Sweep": over is not None,
        "Curves": charts or single,
        "Configuration": any(run.config for run in runs),
    }
    return render_page(
        TEMPLATE,
        title=f"{len(runs)} runs" if len(runs) > 1 else runs[0].name,
        several=len(runs) > 1,
        colors=COLORS,
        runs=runs,
        facts=[_facts(run) for run in runs],
        table=results_table(runs),
        over=over,
        sweep=[] if over is None else charts_over(over, runs),
        charts=charts,
        drawn=drawn,
        single=single,
        width=WIDTH,
        height=HEIGHT,
        contents=[name for name, present in parts.items() if present],
        datasets=datasets,
        notes=notes,
    )


def _facts(run: Run) -> list[tuple[str, str]]:
    """Return commands, commits, versions, arithmetic; those of the images only if they differ."""
    found: list[tuple[str, str]] = []
    known: list[Provenance] = []
    for what, source in run.sources.items():
        if source not in known:
            versions, arithmetic = (
                ", ".join(f"{name} {value}" for name, value in source[key].items())
                for key in ("versions", "arithmetic")
            )
            found.append((f"command ({what})" if known else "command", source["command"]))
            found += [("commit", source["commit"] or "none"), ("versions", versions)]
            found += [("arithmetic", arithmetic)] if arithmetic else []
            known.append(source)
    return found


# --------------------------------------------------------------------------------- what was logged
def _curves(runs: Sequence[Run]) -> tuple[list[Chart], list[tuple[str, str]], list[int]]:
    """Return the charts, scalars that have a single value, and the numbers of the runs drawn."""
    found: dict[str, dict[int, Curve]] = {}
    for number, run in enumerate(runs):
        for tag, curve in run.curves.items():
            if curve.steps and tag not in LEFT_OUT and not tag.startswith("test/"):
                found.setdefault(tag, {})[number] = curve
    tags = sorted(found, key=_place)
    lines = [tag for tag in tags if any(len(curve.steps) > 1 for curve in found[tag].values())]
    single = [(tag, latest(found[tag])) for tag in tags if tag not in lines]
    drawn = sorted({number for tag in lines for number in found[tag]})
    return [chart(tag, found[tag]) for tag in lines], single, drawn


def _place(tag: str) -> int:
    first = tag.partition("/")[0].partition("-")[0]  # lr-Adam, as Lightning's monitor has it
    return ORDER.index(first) if first in ORDER else len(ORDER)


# ---------------------------------------------------------------------------------------- images
def _datasets(runs: Sequence[Run], limit: int | None) -> tuple[list[Dataset], list[str]]:
    """Return the figures by dataset, and notes on what is not shown."""
    found = scenes(runs)
    common = [s for s in found if len(s.shown) > 1] if len(runs) > 1 else found
    if not common:
        return [], ["No two runs show the same image." if found else "No images were kept."]
    datasets: dict[tuple[str, float], Dataset] = {}
    missing = left_out = 0
    for scene in common:
        new = Dataset(f"{scene.dataset} x{scene.scale:g}", _evaluations(scene), [])
        dataset = datasets.setdefault((scene.dataset, scene.scale), new)
        if limit is not None and len(dataset.figures) >= limit:
            left_out += 1
        elif shown := tiles(scene):
            dataset.figures.append(figure(scene, shown))
        else:
            missing += 1
    notes = [
        f"{count} {what}"
        for count, what in (
            (missing, "images are not shown: their files are missing."),
            (left_out, f"more images are in report/images: the page shows {limit} of a dataset."),
            (len(found) - len(common), "images that only one run has are not shown."),
        )
        if count
    ]
    return [dataset for dataset in datasets.values() if dataset.figures], notes


def _evaluations(scene: Scene) -> str:
    return "; ".join(
        dict.fromkeys(
            f"{shown.run.name + ': ' if scene.named else ''}{_when(shown.evaluation)}"
            for shown in scene.shown
        )
    )


def _when(evaluation: Evaluation) -> str:
    weights = evaluation["checkpoint"]
    if weights is None:
        step = evaluation["step"]
        return f"{evaluation['stage']} after {step} steps" if step else evaluation["stage"]
    return f"{evaluation['stage']} of {Path(weights).name}"
