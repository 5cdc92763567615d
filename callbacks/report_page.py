"""The page of one run, or of several side by side: HTML that needs nothing beside itself."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from callbacks.markup import Markup, element, joined
from callbacks.report_charts import COLORS, chart, latest
from callbacks.report_figures import Scene, Tile, figure, scenes, tiles
from callbacks.report_pictures import Evaluation
from callbacks.report_runs import Curve, Run
from callbacks.report_tables import SHARE, numbers, shares

MEGABYTE = 1_000_000
BESIDE = Path(__file__).parent  # the style sheet and the script
WITHOUT_SCRIPT = Markup(".comparison, .controls { display: none }")
LEFT_OUT = ("epoch", "hp_metric")  # scalars that are no measurement
ORDER = ("train", "val", "throughput")  # of curves, by the first part of their names


class Limits(NamedTuple):
    """What of the pictures goes into a page.

    pictures: Of each dataset at most so many; None: all that were kept.
    megabytes: None that would make the page larger than this.
    """

    pictures: int | None = None
    megabytes: float = 32.0


def page(runs: Sequence[Run], limits: Limits) -> str:
    """The whole page.

    Args:
        runs: One or more.
        limits: Which of their pictures.
    """
    style, script = (
        (BESIDE / f"report.{kind}").read_text(encoding="utf-8") for kind in ("css", "js")
    )
    several = len(runs) > 1
    title = f"{len(runs)} runs" if several else runs[0].name
    body = [
        _header(runs, title),
        _section("Results", *numbers(runs)),
        *_curves(runs),
        *_shares(runs),
        *_pictures(runs, limits),
        *_configurations(runs),
    ]
    size = sum(len(part.encode()) for part in (style, script, *body))
    text = f"This page is one file of {_megabytes(size)} and needs no network. "
    footer = element("footer", None, text, "Pictures are lossless.")
    head = element(
        "head",
        None,
        element("meta", {"charset": "utf-8"}),
        element("meta", {"name": "viewport", "content": "width=device-width, initial-scale=1"}),
        element("meta", {"http-equiv": "Content-Security-Policy", "content": _policy(script)}),
        element("title", None, f"{title} · Enlarger"),
        element("style", None, Markup(style)),
        element("noscript", None, element("style", None, WITHOUT_SCRIPT)),
    )
    content = joined([*body, footer, element("script", None, Markup(script))])
    return "<!DOCTYPE html>\n" + element("html", {"lang": "en"}, head, _body(content)) + "\n"


def _body(content: Markup) -> Markup:
    return element("body", None, element("main", None, content))


def _policy(script: str) -> str:
    # The browser itself refuses to load anything, and to run any script but ours.
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return (
        "default-src 'none'; img-src data:; style-src 'unsafe-inline'; "
        f"script-src 'sha256-{digest}'"
    )


def _section(title: str, *content: str) -> Markup:
    return element("section", None, element("h2", None, title), *content)


def _megabytes(size: float) -> str:
    return f"{size / MEGABYTE:.1f} MB"


# ---------------------------------------------------------------------------------------- the top


def _header(runs: Sequence[Run], title: str) -> Markup:
    abouts = [_about(number, run, len(runs) > 1) for number, run in enumerate(runs)]
    heading = element("h1", None, title)
    return element("header", None, heading, element("div", {"class": "runs"}, *abouts))


def _about(number: int, run: Run, named: bool) -> Markup:
    rows: list[tuple[str, str]] = [("written", run.written)] if run.written else []
    for what, source in _sources(run).items():
        rows.append((what, element("code", None, source[0])))
        rows.append(("commit", element("code", None, source[1] or "none")))
        rows.append(("versions", source[2]))
    rows += [("remark", remark) for remark in run.remarks]
    cells = [part for k, v in rows for part in (element("dt", None, k), element("dd", None, v))]
    facts = element("dl", None, *cells)
    if not named:
        return element("div", None, facts)
    words = f"written {run.written}" if run.written else "nothing was written"
    more = element("details", {"open": bool(run.remarks)}, element("summary", None, words), facts)
    return element("div", None, _named(number, run.name), more)


def _sources(run: Run) -> dict[str, tuple[str, str | None, str]]:
    """Commands with commit and versions; those of the pictures where they are others."""
    found: dict[str, tuple[str, str | None, str]] = {}
    for what, source in run.sources.items():
        versions = ", ".join(f"{name} {version}" for name, version in source["versions"].items())
        known = (source["command"], source["commit"], versions)
        if known not in found.values():
            found[f"command ({what})" if found else "command"] = known
    return found


def _named(number: int, name: str) -> Markup:
    dot = element("span", {"class": f"key series-{number % COLORS}"})
    return element("h3", {"class": "run"}, dot, name)


# --------------------------------------------------------------------------------- what was logged


def _curves(runs: Sequence[Run]) -> list[Markup]:
    found: dict[str, dict[int, Curve]] = {}
    for number, run in enumerate(runs):
        for tag, curve in run.curves.items():
            if curve.steps and _is_drawn(tag):
                found.setdefault(tag, {})[number] = curve
    if not found:
        return []
    tags = sorted(found, key=_place)
    lines = [tag for tag in tags if any(len(curve.steps) > 1 for curve in found[tag].values())]
    charts = element("div", {"class": "charts"}, *(chart(tag, found[tag]) for tag in lines))
    drawn = sorted({number for tag in lines for number in found[tag]})
    keys = [_named(number, runs[number].name) for number in drawn]
    legend = [element("div", {"class": "legend"}, *keys)] if len(runs) > 1 else []
    once = [
        part
        for tag in tags
        if tag not in lines
        for part in (element("dt", None, tag), element("dd", None, latest(found[tag])))
    ]
    single = [element("dl", None, *once)] if once else []
    return [_section("Curves", *legend, charts, *single)]


def _is_drawn(tag: str) -> bool:
    # The numbers of a test are in the table, and shares are bars.
    return tag not in LEFT_OUT and not tag.startswith(("test/", SHARE))


def _place(tag: str) -> int:
    first = tag.partition("/")[0]
    return ORDER.index(first) if first in ORDER else len(ORDER)


def _shares(runs: Sequence[Run]) -> list[Markup]:
    if (table := shares(runs)) is None:
        return []
    text = (
        "Since training began. Waiting, degrading, stepping, validating and saving come one after "
        "the other; reading, decoding and cropping are of the workers' time, beside that."
    )
    return [_section("Shares of time", element("p", {"class": "muted"}, text), table)]


# -------------------------------------------------------------------------------------- pictures


def _pictures(runs: Sequence[Run], limits: Limits) -> list[Markup]:
    found = scenes(runs)
    common = [s for s in found if len(s.shown) > 1] if len(runs) > 1 else found
    if not common:
        text = "No two runs show the same picture." if found else "No pictures were kept."
        return [_section("Pictures", element("p", {"class": "muted"}, text))]
    kept, remarks = _chosen(common, limits)
    if alone := len(found) - len(common):
        remarks.append(f"{alone} pictures that one run alone has are not shown.")
    parts: list[Markup] = []
    place = None
    for number, (scene, shown) in enumerate(kept, start=1):
        if place != (place := (scene.dataset, scene.scale)):
            parts.append(_dataset(scene))
        parts.append(figure(scene, shown, number))
    help_ = (
        "Drag the line, or use the slider below. Zoom by the buttons, by pinching, or by Ctrl and "
        "the wheel; drag to pan. All pictures of a row move together. Click a name to compare it."
    )
    notes = [element("p", {"class": "muted"}, text) for text in [help_, *remarks]]
    return [_section("Pictures", *notes, *parts)]


def _chosen(
    found: Sequence[Scene], limits: Limits
) -> tuple[list[tuple[Scene, list[Tile]]], list[str]]:
    """Scenes within the limits, in their order, with their tiles; and what was left out."""
    counts: dict[tuple[str, float], int] = {}
    turns: list[tuple[int, int]] = []  # all datasets' first pictures, all their second ones, ...
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
    remarks = []
    if missing:
        remarks.append(f"The files of {missing} pictures are missing.")
    if left_out := len(found) - len(kept) - missing:
        remarks.append(
            f"{left_out} more pictures are in report/pictures of the run: the page holds at most "
            f"{limits.megabytes:g} MB of them"
            + ("." if limits.pictures is None else f", {limits.pictures} of each dataset.")
        )
    return [(found[index], kept[index]) for index in sorted(kept)], remarks


def _dataset(scene: Scene) -> Markup:
    evaluations = {
        f"{shown.run.name + ': ' if scene.named else ''}{_when(shown.evaluation)}": None
        for shown in scene.shown
    }
    about = element("span", {"class": "muted"}, "; ".join(evaluations))
    return element("h3", None, f"{scene.dataset} x{scene.scale:g} ", about)


def _when(evaluation: Evaluation) -> str:
    weights = evaluation["checkpoint"]
    if weights is None:
        step = evaluation["step"]
        return f"{evaluation['stage']} after {step} steps" if step else evaluation["stage"]
    return f"{evaluation['stage']} of {Path(weights).name}"


# ------------------------------------------------------------------------------ the configuration


def _configurations(runs: Sequence[Run]) -> list[Markup]:
    found = []
    for run in runs:
        if run.config:
            words = f"Configuration of {run.name}" if len(runs) > 1 else "Configuration"
            summary = element("summary", None, words)
            found.append(element("details", None, summary, element("pre", None, run.config)))
    return [element("section", None, *found)] if found else []
