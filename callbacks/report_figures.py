"""The pictures of a report: each with a slider between two methods, and all of them beside it."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from callbacks.markup import Attributes, Markup, element, joined
from callbacks.report_pictures import Evaluation, Picture
from callbacks.report_runs import Run
from callbacks.tensorboard import MetricProtocol

TITLES = {"bicubic": "LR, bicubic", "hr": "HR"}


class Shown(NamedTuple):
    """A picture of one run."""

    run: Run
    evaluation: Evaluation
    picture: Picture


@dataclass
class Scene:
    """A picture that one or more runs have restored: the same window of the same HR.

    named: Whether methods have their run's name, as on a page of several runs.
    """

    dataset: str
    scale: float
    key: str
    named: bool
    shown: list[Shown] = field(default_factory=list)


class Tile(NamedTuple):
    """One method's picture.

    label: Name of the method.
    data: The file's bytes.
    caption: Its numbers.
    """

    label: str
    data: bytes
    caption: str


def scenes(runs: Sequence[Run]) -> list[Scene]:
    """The pictures of runs, by dataset; those that show the same together, most runs first."""
    found: dict[str, Scene] = {}
    for run in runs:
        for evaluation in run.evaluations:
            for picture in evaluation["pictures"]:
                name = (evaluation["dataset"], evaluation["scale"], picture["key"])
                window = [picture["size"], picture["window"], picture["files"].get("hr")]
                new = Scene(*name, named=len(runs) > 1)
                scene = found.setdefault(json.dumps([name, window]), new)
                scene.shown.append(Shown(run, evaluation, picture))
    places = list(dict.fromkeys((scene.dataset, scene.scale) for scene in found.values()))
    return sorted(
        found.values(),
        key=lambda scene: (places.index((scene.dataset, scene.scale)), -len(scene.shown)),
    )


def tiles(scene: Scene) -> list[Tile]:
    """The pictures of a scene: bicubic, the methods', HR. Files that are missing are left out."""
    alike = _comparable(scene)
    found = []
    for kind in ("bicubic", "sr", "hr"):
        having = [shown for shown in scene.shown if _file(shown, kind).is_file()]
        for shown in having if kind == "sr" else having[:1]:
            numbers = shown.picture["numbers"].get(kind, {})
            values = {metric: numbers[metric] for metric in numbers if metric in alike}
            caption = ", ".join(f"{metric} {value:.4g}" for metric, value in values.items())
            label = TITLES.get(kind) or (shown.run.name if scene.named else "output")
            found.append(Tile(label, _file(shown, kind).read_bytes(), caption))
    return found


def figure(scene: Scene, shown: Sequence[Tile], number: int) -> Markup:
    """A scene with its slider, its buttons and its tiles.

    Args:
        scene: What is shown.
        shown: Its tiles, at least one.
        number: Of the figure on the page.
    """
    picture = scene.shown[0].picture
    _, _, height, width = picture["window"]
    style = f"--width: {width}; --height: {height}"
    attributes = {"class": "viewer", "id": f"picture-{number}", "style": style}
    return element(
        "figure",
        {**attributes, "data-width": width},
        _caption(scene),
        *([_controls(shown), _stage(scene.key)] if len(shown) > 1 else []),
        element("div", {"class": "tiles"}, *(_tile(tile, scene.key) for tile in shown)),
    )


def data_uri(data: bytes) -> str:
    """A WebP file inside a page."""
    return "data:image/webp;base64," + base64.b64encode(data).decode()


def _file(shown: Shown, kind: str) -> Path:
    """Where a picture is; a folder, where there is none."""
    return shown.run.picture_file(shown.picture["files"].get(kind, ""))


def _comparable(scene: Scene) -> set[str]:
    """Metrics that all runs of a scene measured in the same way."""
    protocols: dict[str, list[MetricProtocol]] = {}
    for shown in scene.shown:
        for metric, protocol in shown.evaluation["protocols"].items():
            protocols.setdefault(metric, []).append(protocol)
    return {metric for metric, found in protocols.items() if all(p == found[0] for p in found)}


def _caption(scene: Scene) -> Markup:
    picture = scene.shown[0].picture
    top, left, height, width = picture["window"]
    words = [f"{width}x{height} pixels"]
    if tuple(picture["size"]) != (width, height):
        whole = "{}x{}".format(*picture["size"])
        words = [f"{width}x{height} of {whole} pixels, from {left}, {top}"]
    if len({shown.picture["input"] for shown in scene.shown}) > 1:
        words.append("the runs had inputs that differ")
    about = element("span", {"class": "muted"}, "; ".join(words))
    return element("figcaption", None, element("b", None, scene.key), " ", about)


def _controls(shown: Sequence[Tile]) -> Markup:
    names = [tile.label for tile in shown]
    methods = [i for i, name in enumerate(names) if name not in TITLES.values()] or [0]
    # Output against bicubic; of several runs, the last against the first.
    left = methods[0] if len(methods) > 1 else 0
    right = methods[-1] if methods[-1] != left else len(names) - 1
    return element(
        "div",
        {"class": "controls"},
        _choice("left", names, left),
        element("button", {"type": "button", "class": "swap", "title": "Swap"}, "⇄"),
        _choice("right", names, right),
        element(
            "span",
            {"class": "zoom"},
            _button("out", "Zoom out (-)", "-"),
            element("output", {"class": "factor"}, "1x"),
            _button("in", "Zoom in (+)", "+"),
            _button("fit", "Whole picture (0)", "Fit"),
        ),
    )


def _choice(side: str, names: Sequence[str], chosen: int) -> Markup:
    options = [
        element("option", {"value": i, "selected": i == chosen}, name)
        for i, name in enumerate(names)
    ]
    label = {"class": side, "aria-label": f"Picture on the {side}"}
    return element("select", label, *options)


def _button(action: str, title: str, text: str) -> Markup:
    return element("button", {"type": "button", "data-zoom": action, "title": title}, text)


def _stage(key: str) -> Markup:
    about = "arrow keys move the slider, or the picture when zoomed; plus, minus and 0 zoom"
    layer = element("div", {"class": "layer"}, element("img", {"alt": "", "draggable": "false"}))
    over = element(
        "div", {"class": "layer over"}, element("img", {"alt": "", "draggable": "false"})
    )
    stage = element(
        "div",
        {"class": "stage view", "tabindex": 0, "role": "group", "aria-label": f"{key}: {about}"},
        layer,
        over,
        element("div", {"class": "divider"}, element("span", {"class": "handle"})),
        element("span", {"class": "tag left"}),
        element("span", {"class": "tag right"}),
    )
    about = "Where the right picture begins, in percent"
    slide: Attributes = {"type": "range", "class": "slide", "step": 0.5, "aria-label": about}
    bar = element("input", {**slide, "min": 0, "max": 100, "value": 50})
    return element("div", {"class": "comparison"}, stage, bar)


def _tile(tile: Tile, key: str) -> Markup:
    image = {"src": data_uri(tile.data), "alt": f"{tile.label} of {key}", "draggable": "false"}
    view = element("div", {"class": "pane view"}, element("img", image))
    title = "Put it on the right of the slider"
    name = element("button", {"type": "button", "class": "pick", "title": title}, tile.label)
    caption = element("span", {"class": "muted"}, tile.caption)
    return element("div", {"class": "tile"}, view, joined([name, caption]))
