"""Scatter plots: perception against distortion.

    python main.py plot runs/a runs/b --x psnr --y lpips --out trade.svg
    python main.py plot runs/steps_* --label model.steps

A point is a checkpoint of a run, with bars for the deviation over seeds; a line joins the
checkpoints of one run. With `--label` all runs are one method at several settings: a line joins
them, and each is named by its value of that key. Bicubic is shown if a metric has that control.

Source: Blau and Michaeli, "The perception-distortion tradeoff" (CVPR 2018).
"""

from __future__ import annotations

import argparse
import logging
import math
import shlex
import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from callbacks.pages.render import render
from callbacks.report.page import Axis
from callbacks.results.compare import CONTROL, RunNumbers, load_run
from callbacks.results.files import Result, column_of, columns, describe, load_results
from files.owned import write_whole

WIDTH, HEIGHT = 640, 440  # of the plot with its axes; legend and notes are below
LEFT, RIGHT, TOP, BOTTOM = 74, 24, 20, 52  # margins
MARGIN = 0.12  # of the range, between the points and the frame
WRAP = 105  # letters in a line of notes
COLORS = ("#0b6e99", "#c4572a", "#3d7d3a", "#8a4fa3", "#a8811a", "#b3305c", "#4f5d75", "#2a8f85")
ARROWS = {(True, True): "↗", (True, False): "↘", (False, True): "↖", (False, False): "↙"}


class Point(NamedTuple):
    """A result in the plane of two metrics.

    series: Number of the line it belongs to; None for a single point, such as bicubic.
    label: Its name in the legend.
    at: Its two numbers.
    spread: Their deviations over seeds; 0 without any.
    """

    series: int | None
    label: str
    at: tuple[float, float]
    spread: tuple[float, float] = (0.0, 0.0)

    @property
    def color(self) -> str:
        """The colour of its series."""
        return "#555" if self.series is None else COLORS[self.series % len(COLORS)]


class Quantity(NamedTuple):
    """What an axis shows.

    name: Name of the metric.
    higher_is_better: Its direction; None if unknown.
    """

    name: str
    higher_is_better: bool | None

    def __str__(self) -> str:
        if self.higher_is_better is None:
            return self.name
        return f"{self.name} ({'higher' if self.higher_is_better else 'lower'} is better)"


def scatter(points: Sequence[Point], x: Quantity, y: Quantity, notes: Sequence[str]) -> str:
    """Draw points as an SVG file, with the better corner marked.

    Args:
        points: At least one; all numbers finite.
        x: The horizontal axis.
        y: The vertical axis.
        notes: Text below the plot, such as protocols.
    """
    across, up = axes(points)
    series = dict.fromkeys(p.series for p in points if p.series is not None)
    lines = [[p for p in points if p.series == number] for number in series]
    known = x.higher_is_better is not None and y.higher_is_better is not None
    return render(
        Path(__file__).parent / "scatter.svg.j2",
        width=WIDTH,
        height=HEIGHT,
        points=points,
        lines=[line for line in lines if len(line) > 1],
        x=x,
        y=y,
        across=across,
        up=up,
        better=ARROWS[bool(x.higher_is_better), bool(y.higher_is_better)] if known else "",
        notes=[line for note in notes for line in textwrap.wrap(note, WRAP)],
    )


def axes(points: Sequence[Point]) -> tuple[Axis, Axis]:
    """Return axes that hold all points with their deviations."""
    ends = ((LEFT, WIDTH - RIGHT), (HEIGHT - BOTTOM, TOP))
    made = []
    for axis, (start, end) in enumerate(ends):
        low = min(p.at[axis] - p.spread[axis] for p in points)
        high = max(p.at[axis] + p.spread[axis] for p in points)
        margin = MARGIN * (high - low) or 0.05 * abs(high) or 1.0  # one point has a range, too
        made.append(Axis(low - margin, high + margin, start, end))
    return made[0], made[1]


log = logging.getLogger(__name__)
Pairs = dict[str | None, tuple[Result, Result]]  # the two numbers of each checkpoint


class Place(NamedTuple):
    """The dataset and scale of the numbers."""

    dataset: str
    scale: float

    def __str__(self) -> str:
        return f"{self.dataset} x{self.scale:g}"


def plot(
    runs: Sequence[RunNumbers],
    names: tuple[str, str],
    place: tuple[str | None, float | None] = (None, None),
    label: str | None = None,
) -> str:
    """Draw two metrics of runs against each other.

    Args:
        runs: The runs, with bicubic to show it.
        names: Names of the two metrics; with several protocols as in tables: ``psnr (2)``.
        place: Dataset and scale; required if the runs have several.
        label: A key of the configuration that the runs differ in.

    Returns:
        The text of an SVG file.

    Raises:
        ValueError: If there is nothing to draw, or the numbers have several datasets, scales or
            protocols.
    """
    everything = [result for run in runs for result in run.results]
    chosen = _column(everything, names[0]), _column(everything, names[1])
    where = _where(everything, chosen, place)
    points: list[Point] = []
    used: list[Result] = []
    for number, run in enumerate(runs):
        pairs = _pairs(run, where, chosen)
        if not pairs:
            log.warning("%s is left out: it has no %s and %s of %s", run.name, *names, where)
        used += [result for pair in pairs.values() for result in pair]
        found = _points(run, pairs, 0 if label else number, label)
        points += [point for point in found if point not in points]  # bicubic once
    if not points:
        raise ValueError(f"there is nothing finite to draw of {' and '.join(names)} on {where}")
    x, y = (_quantity(name, used[axis::2]) for axis, name in enumerate(names))
    protocols = [f"{n}: {describe(used[i]['protocol'])}" for i, n in enumerate(names)]
    return scatter(points, x, y, [str(where), *protocols])


def setting_of(run: Path, key: str) -> str:
    """Return a key's value in the command that measured a run, or else in its configuration.

    Args:
        run: The run's directory.
        key: E.g. ``model.steps``, or ``model.init_args.steps``, which is the same.

    Raises:
        ValueError: If neither has it.
    """
    words = shlex.split(load_results(run / "results.json").get("command", ""))
    for position in reversed(range(len(words))):
        flag, equals, value = words[position].partition("=")
        if short(flag) == f"--{short(key)}" and (equals or position + 1 < len(words)):
            return value if equals else words[position + 1]
    path = run / "config.yaml"
    found: Any = yaml.safe_load(path.read_text(encoding="utf-8")) if path.is_file() else None
    for part in short(key).split("."):
        inside = found if isinstance(found, dict) else {}
        found = inside.get(part, (inside.get("init_args") or {}).get(part))
    if found is None:
        raise ValueError(
            f"{key} is neither in the command of {run / 'results.json'} nor in {path}: give it "
            f"to test as --{key} VALUE, or leave --label out"
        )
    return str(found)


def short(key: str) -> str:
    """Return a key as it may be typed, without ``init_args``."""
    return key.replace(".init_args.", ".")


def _column(results: list[Result], name: str) -> str:
    """Return the column of a heading, or of a metric that has only one protocol."""
    headings = {heading: column for column, (heading, _) in columns(results).items()}
    if name in headings:
        return headings[name]
    several = [heading for heading in headings if heading.startswith(f"{name} (")]
    if several:
        protocols = {heading: describe(p) for heading, p in columns(results).values()}
        shown = "; ".join(f"{heading!r} is {protocols[heading]}" for heading in several)
        raise ValueError(
            f"{name} was measured by {len(several)} protocols, name one of them: {shown}"
        )
    raise ValueError(f"no run has {name!r}; there are {', '.join(headings) or 'no numbers'}")


def _where(
    results: list[Result], chosen: tuple[str, str], asked: tuple[str | None, float | None]
) -> Place:
    """Return the dataset and scale that both numbers are of."""
    having = [
        {Place(r["dataset"], r["scale"]): None for r in results if column_of(r) == column}
        for column in chosen
    ]
    both = [
        place
        for place in having[0]
        if place in having[1]
        and asked[0] in (None, place.dataset)
        and asked[1] in (None, place.scale)
    ]
    if len(both) != 1:
        there = ", ".join(map(str, both or having[0]))
        found = "several datasets and scales have" if both else "none that was asked for has"
        raise ValueError(f"{found} both metrics ({there}): say which by --dataset and --scale")
    return both[0]


def _pairs(run: RunNumbers, where: Place, chosen: tuple[str, str]) -> Pairs:
    """Return the two results of each checkpoint that has both."""
    found: dict[str | None, dict[str, Result]] = {}
    for result in run.results:
        if Place(result["dataset"], result["scale"]) == where:
            found.setdefault(result["checkpoint"], {})[column_of(result)] = result
    return {
        checkpoint: (of[chosen[0]], of[chosen[1]])
        for checkpoint, of in found.items()
        if all(column in of for column in chosen)
    }


def _points(run: RunNumbers, pairs: Pairs, series: int, label: str | None) -> Iterator[Point]:
    several = sum(checkpoint != CONTROL for checkpoint in pairs) > 1
    for checkpoint, (x, y) in pairs.items():
        control = checkpoint == CONTROL
        name = CONTROL if control else _point_label(run, checkpoint, label, several)
        spread = x.get("std", 0.0), y.get("std", 0.0)
        point = Point(None if control else series, name, (x["value"], y["value"]), spread)
        if all(map(math.isfinite, (*point.at, *point.spread))):
            yield point
        else:
            log.warning("%s of %s is left out: a number is not finite", name, run.name)


def _point_label(run: RunNumbers, checkpoint: str | None, label: str | None, several: bool) -> str:
    if label is not None:
        return f"{label.rpartition('.')[2]} {setting_of(run.folder, label)}"
    name = run.folder.resolve().name
    return f"{name}, {Path(checkpoint or '-').name}" if several else name


def _quantity(name: str, results: list[Result]) -> Quantity:
    known = {r["higher_is_better"] for r in results if "higher_is_better" in r}
    if not known:
        log.warning("the direction of %s is unknown: run test again with this version", name)
    return Quantity(name, known.pop() if len(known) == 1 else None)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command.

    Args:
        arguments: Command-line arguments; those of this process by default.

    Returns:
        0, or 2 if nothing could be drawn.
    """
    parser = argparse.ArgumentParser(
        prog="main.py plot",
        description="Plot two metrics of runs against each other.",
    )
    parser.add_argument(
        "runs",
        nargs="+",
        metavar="RUN",
        help="a run's directory; RUN@PART: only checkpoints whose name has PART in it",
    )
    parser.add_argument("--x", default="psnr", help="metric across (default psnr)")
    parser.add_argument("--y", default="lpips", help="metric upwards (default lpips)")
    parser.add_argument("--dataset", help="needed where the runs have several")
    parser.add_argument("--scale", type=float, help="needed where the runs have several")
    parser.add_argument("--label", metavar="KEY", help="name points by this key's value")
    parser.add_argument("--out", type=Path, default=Path("perception_distortion.svg"))
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        if options.out.suffix != ".svg":
            raise ValueError(f"--out is {options.out}; only SVG is written: end it in .svg")
        runs = [load_run(run, control=True) for run in options.runs]
        place = (options.dataset, options.scale)
        write_whole(options.out, plot(runs, (options.x, options.y), place, options.label))
    except (ValueError, OSError) as error:
        log.error("error: %s", error)
        return 2
    log.info("plot: %s", options.out)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
