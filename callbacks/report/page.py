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
from callbacks.report.runs import Curve, Run
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
LEFT, RIGHT = 46, WIDTH - 12  # of the axes
TOP, BOTTOM = 10, HEIGHT - 24
POINTS = 400  # of a line; more values are averaged
COLORS = 8  # classes `series-0` ... of report.css
LOGARITHMIC = 8.0  # a positive range with at least this ratio has a logarithmic axis
Places = list[tuple[float, float]]  # x and y in the drawing
TITLES = {"bicubic": "LR, bicubic", "hr": "HR"}
CONTROL = "bicubic"  # the checkpoint of a metric's control
ARROWS = {True: " ↑", False: " ↓", None: ""}  # to the better direction
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
        if self.log:
            share = math.log(value / self.low) / math.log(self.high / self.low)
        else:
            share = (value - self.low) / (self.high - self.low)
        return self.start + share * (self.end - self.start)

    def ticks(self) -> list[tuple[float, str]]:
        """Return the place and the text of each tick."""
        values = log_ticks(self.low, self.high) if self.log else ticks(self.low, self.high)
        return [(self.place(value), short(value)) for value in values]


class Series(NamedTuple):
    """One run's line in a chart.

    color: Its number; ``COLORS`` of them exist.
    line: Places of its points; a single one is drawn as a dot.
    """

    color: int
    line: Places


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
    points = [point for line in lines.values() for point in line]
    x = _step_axis([step for step, _ in points])
    y = _value_axis([value for _, value in points])
    series = []
    for number, line in lines.items():
        places = [(x.place(step), y.place(value)) for step, value in line]
        series.append(Series(number % COLORS, places))
    summary = "; ".join(f"{c.values[-1]:.4g} at step {c.steps[-1]}" for c in curves.values())
    return Chart(title, latest(curves), summary, x, y, series, _note(curves, y.log))


def latest(curves: Mapping[int, Curve]) -> str:
    """Return the last value of each run."""
    return " · ".join(f"{curve.values[-1]:.4g}" for curve in curves.values())


def averaged(curve: Curve) -> Places:
    """Return steps and values; of more than ``POINTS`` of them, means of neighbours."""
    parts = min(POINTS, len(curve.steps))
    step_parts = np.array_split(np.array(curve.steps), parts)
    value_parts = np.array_split(np.array(curve.values), parts)
    points = []
    for steps, values in zip(step_parts, value_parts, strict=True):
        points.append((float(steps.mean()), float(values.mean())))
    return points


def ticks(low: float, high: float) -> list[float]:
    """Return about four round numbers from ``low`` to ``high``."""
    rough = (high - low) / 4
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= rough * (1 - 1e-9))
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [n * step for n in range(first, last + 1)]


def log_ticks(low: float, high: float) -> list[float]:
    """Return the powers of ten in a range, with multiples in between if there are few."""
    powers = 10.0 ** np.arange(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for factors in ((1,), (1, 3), (1, 2, 5)):
        values = np.outer(powers, factors).flatten()
        inside = [float(value) for value in values if low <= value <= high]
        if len(inside) >= 3:
            break
    return inside


def short(value: float) -> str:
    """Format a number for an axis: 500000 is ``500k``."""
    if abs(value) >= 1e9:
        return f"{value / 1e9:.4g}G"
    if abs(value) >= 1e6:
        return f"{value / 1e6:.4g}M"
    if abs(value) >= 1e4:
        return f"{value / 1e3:.4g}k"
    return f"{value:.4g}"


def _step_axis(steps: Sequence[float]) -> Axis:
    first = min(steps)
    last = max(steps)
    return Axis(first, last if last > first else first + 1, LEFT, RIGHT)


def _value_axis(values: Sequence[float]) -> Axis:
    low = min(values)
    high = max(values)
    if low > 0 and high / low >= LOGARITHMIC:
        return Axis(low, high, BOTTOM, TOP, log=True)
    # Pad the range, so that constant curves are visible.
    margin = 0.05 * (high - low) or 0.05 * abs(high) or 1.0
    return Axis(low - margin, high + margin, BOTTOM, TOP)


def _note(curves: Mapping[int, Curve], log: bool) -> str:
    notes = ["logarithmic"] if log else []
    if any(len(curve.steps) > POINTS for curve in curves.values()):
        notes.append("means")
    left_out = sum(curve.left_out for curve in curves.values())
    if left_out:
        notes.append(f"{left_out} values that are not finite are left out")
    return "; ".join(notes)


class RunImage(NamedTuple):
    """An image of one run."""

    run: Run
    evaluation: Evaluation
    image: ReportImage


@dataclass
class Scene:
    """The same window of the same HR image, as restored by one or more runs.

    label_runs: Whether methods are labelled by their run's name, as on a page of several runs.
    """

    dataset: str
    scale: float
    key: str
    label_runs: bool
    images: list[RunImage] = field(default_factory=list)


def scenes(runs: Sequence[Run]) -> list[Scene]:
    """Return the images of all runs by dataset, those that most runs have first."""
    by_dataset: dict[tuple[str, float], dict[str, Scene]] = {}
    for run in runs:
        for evaluation in run.evaluations:
            dataset = evaluation["dataset"]
            scale = evaluation["scale"]
            of_dataset = by_dataset.setdefault((dataset, scale), {})
            for image in evaluation["images"]:
                key = image["key"]
                place = [key, image["size"], image["window"], image["files"].get("hr")]
                scene = Scene(dataset, scale, key, label_runs=len(runs) > 1)
                scene = of_dataset.setdefault(json.dumps(place), scene)
                scene.images.append(RunImage(run, evaluation, image))
    ordered: list[Scene] = []
    for of_dataset in by_dataset.values():
        ordered += sorted(of_dataset.values(), key=lambda scene: -len(scene.images))
    return ordered


def tiles(scene: Scene) -> list[Tile]:
    """Return the images of a scene: bicubic, the methods', HR. Missing files are left out."""
    comparable = _comparable(scene)
    tiles = []
    for kind in ("bicubic", "sr", "hr"):
        with_file = [run_image for run_image in scene.images if _file(run_image, kind).is_file()]
        if kind != "sr":
            with_file = with_file[:1]
        for run_image in with_file:
            numbers = run_image.image["numbers"].get(kind, {})
            caption = ", ".join(
                f"{metric} {value:.4g}" for metric, value in numbers.items() if metric in comparable
            )
            output = run_image.run.name if scene.label_runs else "output"
            image = embedded(_file(run_image, kind).read_bytes())
            tiles.append(Tile(TITLES.get(kind, output), image, caption))
    return tiles


def figure(scene: Scene, images: list[Tile]) -> Figure:
    """Lay out a scene with its tiles, at least one."""
    _, _, height, width = scene.images[0].image["window"]
    methods = [i for i, tile in enumerate(images) if tile.label not in TITLES.values()]
    left = 0
    right = len(images) - 1
    if len(methods) > 1:  # the last run against the first
        left = methods[0]
        right = methods[-1]
    elif methods and methods[0] > 0:  # the output against bicubic
        right = methods[0]
    return Figure(scene.key, _about(scene), width, height, images, left, right)


def _file(run_image: RunImage, kind: str) -> Path:
    """Return the path of an image; a folder, if there is none."""
    return run_image.run.image_file(run_image.image["files"].get(kind, ""))


def _comparable(scene: Scene) -> set[str]:
    """Return the metrics that all runs of a scene measured in the same way."""
    first: dict[str, MetricProtocol] = {}
    different = set()
    for run_image in scene.images:
        for metric, protocol in run_image.evaluation["protocols"].items():
            if first.setdefault(metric, protocol) != protocol:
                different.add(metric)
    return first.keys() - different


def _about(scene: Scene) -> str:
    image = scene.images[0].image
    top, left, height, width = image["window"]
    whole_width, whole_height = image["size"]
    about = f"{width}x{height} pixels"
    if (whole_width, whole_height) != (width, height):
        about = f"{width}x{height} of {whole_width}x{whole_height} pixels, from {left}, {top}"
    if len({run_image.image["input"] for run_image in scene.images}) > 1:
        about += "; the inputs of the runs differ"
    return about


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
    directions = {column_of(result): result.get("higher_is_better") for result in results}
    return ResultsTable(
        [f"{heading}{ARROWS[directions[column]]}" for column, (heading, _) in headings.items()],
        sorted(set(_rows(runs, list(headings))), key=_order),
        [(heading, describe(protocol)) for heading, protocol in headings.values()],
        _seeds_note(results),
    )


def _rows(runs: Sequence[Run], metrics: list[str]) -> Iterator[Cells]:
    for number, run in enumerate(runs):
        for (dataset, scale, checkpoint), row in rows_of(run.results).items():
            is_control = checkpoint == CONTROL
            weights = checkpoint or "none"
            yield Cells(
                dataset,
                scale,
                None if is_control else number,
                weights,
                Path(weights).name,
                tuple(shown_value(row.get(metric)) for metric in metrics),
                counts_of(row),
                is_control,
            )


def _order(row: Cells) -> tuple[Any, ...]:
    return row.dataset, row.scale, -1 if row.run is None else row.run, row.weights, row.values


def _seeds_note(results: list[Result]) -> str:
    counts = {len(result["seeds"]) for result in results if "std" in result}
    if not counts:
        return ""
    return f"Mean ± standard deviation over {', '.join(map(str, sorted(counts)))} seeds."


class Dataset(NamedTuple):
    """The figures of one dataset and scale.

    about: Which evaluations they are from.
    """

    title: str
    about: str
    figures: list[Figure]


def page(runs: Sequence[Run]) -> str:
    """Return the whole page of one run or more."""
    charts, single, drawn = _curves(runs)
    datasets, notes = _datasets(runs)
    contents = ["Images", "Results"]
    if charts or single:
        contents.append("Curves")
    if any(run.config for run in runs):
        contents.append("Configuration")
    return render_page(
        TEMPLATE,
        title=f"{len(runs)} runs" if len(runs) > 1 else runs[0].name,
        several=len(runs) > 1,
        colors=COLORS,
        runs=runs,
        facts=[_facts(run) for run in runs],
        table=results_table(runs),
        charts=charts,
        drawn=drawn,
        single=single,
        width=WIDTH,
        height=HEIGHT,
        contents=contents,
        datasets=datasets,
        notes=notes,
    )


def _facts(run: Run) -> list[tuple[str, str]]:
    """Return commands, commits, versions, arithmetic; those of the images only if they differ."""
    facts: list[tuple[str, str]] = []
    listed: list[Provenance] = []
    for content, source in run.sources.items():
        if source in listed:
            continue
        facts.append((f"command ({content})" if listed else "command", source["command"]))
        facts.append(("commit", source["commit"] or "none"))
        facts.append(("versions", _words(source["versions"])))
        if source["arithmetic"]:
            facts.append(("arithmetic", _words(source["arithmetic"])))
        listed.append(source)
    return facts


def _words(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in values.items())


# --------------------------------------------------------------------------------- what was logged
def _curves(runs: Sequence[Run]) -> tuple[list[Chart], list[tuple[str, str]], list[int]]:
    """Return the charts, scalars that have a single value, and the numbers of the runs drawn."""
    by_tag: dict[str, dict[int, Curve]] = {}
    for number, run in enumerate(runs):
        for tag, curve in run.curves.items():
            if curve.steps and tag not in LEFT_OUT and not tag.startswith("test/"):
                by_tag.setdefault(tag, {})[number] = curve
    charts: list[Chart] = []
    single: list[tuple[str, str]] = []
    drawn: set[int] = set()
    for tag in sorted(by_tag, key=_place):
        curves = by_tag[tag]
        if any(len(curve.steps) > 1 for curve in curves.values()):
            charts.append(chart(tag, curves))
            drawn |= curves.keys()
        else:
            single.append((tag, latest(curves)))
    return charts, single, sorted(drawn)


def _place(tag: str) -> int:
    first = tag.partition("/")[0].partition("-")[0]  # lr-Adam, as Lightning's monitor has it
    return ORDER.index(first) if first in ORDER else len(ORDER)


# ---------------------------------------------------------------------------------------- images
def _datasets(runs: Sequence[Run]) -> tuple[list[Dataset], list[str]]:
    """Return the figures by dataset, and notes on what is not shown."""
    all_scenes = scenes(runs)
    common = [scene for scene in all_scenes if len(runs) == 1 or len(scene.images) > 1]
    if not all_scenes:
        return [], ["No images were kept."]
    if not common:
        return [], ["No two runs show the same image."]
    datasets: dict[str, Dataset] = {}
    missing = 0
    for scene in common:
        images = tiles(scene)
        if not images:
            missing += 1
            continue
        title = f"{scene.dataset} x{scene.scale:g}"
        dataset = datasets.setdefault(title, Dataset(title, _evaluations(scene), []))
        dataset.figures.append(figure(scene, images))
    notes = []
    if missing:
        notes.append(f"{missing} images are not shown: their files are missing.")
    if len(common) < len(all_scenes):
        notes.append(f"{len(all_scenes) - len(common)} images that only one run has are not shown.")
    return list(datasets.values()), notes


def _evaluations(scene: Scene) -> str:
    texts = []
    for run_image in scene.images:
        name = f"{run_image.run.name}: " if scene.label_runs else ""
        texts.append(name + _when(run_image.evaluation))
    return "; ".join(dict.fromkeys(texts))


def _when(evaluation: Evaluation) -> str:
    weights = evaluation["checkpoint"]
    if weights is None:
        step = evaluation["step"]
        return f"{evaluation['stage']} after {step} steps" if step else evaluation["stage"]
    return f"{evaluation['stage']} of {Path(weights).name}"
