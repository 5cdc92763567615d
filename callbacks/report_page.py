"""The page of one run, or of several side by side: one HTML file that needs nothing else."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from callbacks.provenance import Provenance
from callbacks.report_charts import COLORS, HEIGHT, WIDTH, Chart, chart, latest
from callbacks.report_figures import Figure, Scene, Tile, figure, scenes, tiles
from callbacks.report_pictures import Evaluation
from callbacks.report_runs import Curve, Run
from callbacks.report_tables import SHARE, results_table, shares

MEGABYTE = 1_000_000
BESIDE = Path(__file__).parent  # the templates, the style sheet and the script
LEFT_OUT = ("epoch", "hp_metric")  # scalars that are no measurement
ORDER = ("train", "val", "throughput")  # of curves, by the first part of their names


class Limits(NamedTuple):
    """How many images go into a page.

    images: At most this many of each dataset; None for all that were kept.
    megabytes: Images that would make the page larger than this are left out.
    """

    pictures: int | None = None
    megabytes: float = 32.0


class Dataset(NamedTuple):
    """The figures of one dataset and scale.

    about: Which evaluations they are from.
    """

    title: str
    about: str
    figures: list[Figure]


def page(runs: Sequence[Run], limits: Limits) -> str:
    """Return the whole page.

    Args:
        runs: One or more.
        limits: How many of their images it holds.
    """
    style, script = (
        (BESIDE / f"report.{kind}").read_text(encoding="utf-8") for kind in ("css", "js")
    )
    charts, single, drawn = _curves(runs)
    datasets, notes = _datasets(runs, limits)
    return render(
        "report.html.j2",
        title=f"{len(runs)} runs" if len(runs) > 1 else runs[0].name,
        several=len(runs) > 1,
        style=Markup(style),
        script=Markup(script),
        policy=_policy(script),
        colors=COLORS,
        runs=runs,
        facts=[_facts(run) for run in runs],
        table=results_table(runs),
        charts=charts,
        drawn=drawn,
        single=single,
        width=WIDTH,
        height=HEIGHT,
        shares=shares(runs),
        datasets=datasets,
        notes=notes,
    )


def render(template: str, **values: Any) -> str:
    """Fill a template that lies beside this file; all text in it is escaped."""
    environment = Environment(
        loader=FileSystemLoader(BESIDE),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    text = environment.get_template(template).render(values)
    # A file name that is not UTF-8, which no page can hold, is spelt out.
    return text.strip().encode("utf-8", "backslashreplace").decode() + "\n"


def _policy(script: str) -> str:
    # The browser itself refuses to load anything, and to run any script but ours.
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return (
        "default-src 'none'; img-src data:; style-src 'unsafe-inline'; "
        f"script-src 'sha256-{digest}'"
    )


def _facts(run: Run) -> list[tuple[str, str]]:
    """Return commands with their commit and versions; those of the images only if they differ."""
    found: list[tuple[str, str]] = []
    known: list[Provenance] = []
    for what, source in run.sources.items():
        if source not in known:
            versions = ", ".join(f"{name} {v}" for name, v in source["versions"].items())
            found.append((f"command ({what})" if known else "command", source["command"]))
            found += [("commit", source["commit"] or "none"), ("versions", versions)]
            known.append(source)
    return found


# --------------------------------------------------------------------------------- what was logged


def _curves(runs: Sequence[Run]) -> tuple[list[Chart], list[tuple[str, str]], list[int]]:
    """Return the charts, scalars that have a single value, and the numbers of the runs drawn."""
    found: dict[str, dict[int, Curve]] = {}
    for number, run in enumerate(runs):
        for tag, curve in run.curves.items():
            if curve.steps and _is_drawn(tag):
                found.setdefault(tag, {})[number] = curve
    tags = sorted(found, key=_place)
    lines = [tag for tag in tags if any(len(curve.steps) > 1 for curve in found[tag].values())]
    single = [(tag, latest(found[tag])) for tag in tags if tag not in lines]
    drawn = sorted({number for tag in lines for number in found[tag]})
    return [chart(tag, found[tag]) for tag in lines], single, drawn


def _is_drawn(tag: str) -> bool:
    # The numbers of a test are in the table, and shares are bars.
    return tag not in LEFT_OUT and not tag.startswith(("test/", SHARE))


def _place(tag: str) -> int:
    first = tag.partition("/")[0]
    return ORDER.index(first) if first in ORDER else len(ORDER)


# ---------------------------------------------------------------------------------------- images


def _datasets(runs: Sequence[Run], limits: Limits) -> tuple[list[Dataset], list[str]]:
    """Return the figures by dataset, and notes on what is not shown."""
    found = scenes(runs)
    common = [s for s in found if len(s.shown) > 1] if len(runs) > 1 else found
    if not common:
        return [], ["No two runs show the same image." if found else "No images were kept."]
    kept, notes = _within_limits(common, limits)
    if alone := len(found) - len(common):
        notes.append(f"{alone} images that only one run has are not shown.")
    datasets: dict[tuple[str, float], Dataset] = {}
    for scene, shown in kept:
        title = f"{scene.dataset} x{scene.scale:g}"
        new = Dataset(title, _evaluations(scene), [])
        dataset = datasets.setdefault((scene.dataset, scene.scale), new)
        dataset.figures.append(figure(scene, shown))
    return list(datasets.values()), notes


def _within_limits(
    found: Sequence[Scene], limits: Limits
) -> tuple[list[tuple[Scene, list[Tile]]], list[str]]:
    """Return the scenes within the limits, in their order, with their tiles; and notes."""
    counts: dict[tuple[str, float], int] = {}
    turns: list[tuple[int, int]] = []  # all datasets' first images, all their second ones, ...
    for index, scene in enumerate(found):
        place = scene.dataset, scene.scale
        count = counts[place] = counts.get(place, 0) + 1
        if limits.pictures is None or count <= limits.pictures:
            turns.append((count, index))
    kept: dict[int, list[Tile]] = {}
    missing, budget = 0, limits.megabytes * MEGABYTE
    for _, index in sorted(turns):
        if not (shown := tiles(found[index])):
            missing += 1
            continue
        budget -= sum(len(tile.data) for tile in shown) * 4 / 3  # as base64
        if budget < 0:
            break
        kept[index] = shown
    notes = []
    if missing:
        notes.append(f"The files of {missing} images are missing.")
    if left_out := len(found) - len(kept) - missing:
        notes.append(
            f"{left_out} more images are in report/pictures of the run: the page holds at most "
            f"{limits.megabytes:g} MB of them"
            + ("." if limits.pictures is None else f", {limits.pictures} of each dataset.")
        )
    return [(found[index], kept[index]) for index in sorted(kept)], notes


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
