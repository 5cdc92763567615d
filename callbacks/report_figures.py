"""The images of a report: each with a slider between two methods, and all methods beside it."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from callbacks.report_pictures import Evaluation, Picture
from callbacks.report_runs import Run
from callbacks.tensorboard import MetricProtocol

TITLES = {"bicubic": "LR, bicubic", "hr": "HR"}


class Shown(NamedTuple):
    """An image of one run."""

    run: Run
    evaluation: Evaluation
    picture: Picture


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


class Tile(NamedTuple):
    """One method's image.

    label: Name of the method.
    data: The bytes of its WebP file.
    caption: Its numbers.
    """

    label: str
    data: bytes
    caption: str

    @property
    def uri(self) -> str:
        """The file inside a page."""
        return "data:image/webp;base64," + base64.b64encode(self.data).decode()


class Figure(NamedTuple):
    """A scene on the page.

    about: Size of the window and of the whole image.
    left: Number of the tile that the slider shows on its left at first.
    right: The same for its right.
    """

    key: str
    about: str
    width: int
    height: int
    tiles: list[Tile]
    left: int
    right: int


def scenes(runs: Sequence[Run]) -> list[Scene]:
    """Return the images of all runs by dataset, those that most runs have first."""
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
    """Return the images of a scene: bicubic, the methods', HR. Missing files are left out."""
    comparable = _comparable(scene)
    found = []
    for kind in ("bicubic", "sr", "hr"):
        having = [shown for shown in scene.shown if _file(shown, kind).is_file()]
        for shown in having if kind == "sr" else having[:1]:
            numbers = shown.picture["numbers"].get(kind, {})
            values = {metric: numbers[metric] for metric in numbers if metric in comparable}
            caption = ", ".join(f"{metric} {value:.4g}" for metric, value in values.items())
            label = TITLES.get(kind) or (shown.run.name if scene.named else "output")
            found.append(Tile(label, _file(shown, kind).read_bytes(), caption))
    return found


def figure(scene: Scene, shown: list[Tile]) -> Figure:
    """Lay out a scene with its tiles, at least one."""
    _, _, height, width = scene.shown[0].picture["window"]
    methods = [i for i, tile in enumerate(shown) if tile.label not in TITLES.values()] or [0]
    # Output against bicubic; with several runs, the last against the first.
    left = methods[0] if len(methods) > 1 else 0
    right = methods[-1] if methods[-1] != left else len(shown) - 1
    return Figure(scene.key, _about(scene), width, height, shown, left, right)


def _file(shown: Shown, kind: str) -> Path:
    """Return the path of an image; a folder, if there is none."""
    return shown.run.picture_file(shown.picture["files"].get(kind, ""))


def _comparable(scene: Scene) -> set[str]:
    """Return the metrics that all runs of a scene measured in the same way."""
    protocols: dict[str, list[MetricProtocol]] = {}
    for shown in scene.shown:
        for metric, protocol in shown.evaluation["protocols"].items():
            protocols.setdefault(metric, []).append(protocol)
    return {metric for metric, found in protocols.items() if all(p == found[0] for p in found)}


def _about(scene: Scene) -> str:
    picture = scene.shown[0].picture
    top, left, height, width = picture["window"]
    words = f"{width}x{height} pixels"
    if tuple(picture["size"]) != (width, height):
        whole = "{}x{}".format(*picture["size"])
        words = f"{width}x{height} of {whole} pixels, from {left}, {top}"
    differing = len({shown.picture["input"] for shown in scene.shown}) > 1
    return words + ("; the inputs of the runs differ" if differing else "")
