"""A miniature's parts: trainings, rows with their controls, claims, a gate; and how a file is read.

A method's file is ``benchmarks/configs/miniature/METHOD.yaml``. Options are those of ``main.py``;
``{NAME}`` in them is the run of a training.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import yaml
from jsonargparse import ArgumentError, ArgumentParser

from benchmarks.miniature.jobs import REPOSITORY

FILES = REPOSITORY / "benchmarks" / "configs" / "miniature"
METRICS = "benchmarks/configs/callbacks/mini.yaml"
BICUBIC = "bicubic"

# By row, then by column.
Table = dict[str, dict[str, float]]
Folders = Callable[[str], Path]


@dataclass(frozen=True)
class Training:
    """A run of ``fit``, named after its file; or latents or samples that are written before.

    name: Of the file in the method's folder of ``configs/experiment/mini``, without suffix; the
        method's own name for the file beside that folder. ``METHOD/NAME`` is a training of another
        miniature: what was trained there is not trained again.
    needs: Trainings whose weights it starts from or builds on, or whose latents it reads.
    options: Options beside ``--config``.
    verb: ``fit``; ``encode``, whose folder is the "run" then; or ``predict``, which writes samples.
    config: Name of its file where that is another's; with a slash, of another method's folder.
    steps: In place of those of its file, in its schedule too.
    """

    name: str
    needs: tuple[str, ...] = ()
    options: tuple[str, ...] = ()
    verb: Literal["fit", "encode", "predict"] = "fit"
    config: str | None = None
    steps: int | None = None


@dataclass(frozen=True)
class Row:
    """A row of the table: a trained run, tested with some settings.

    name: Of the row's run.
    label: In the table.
    config: File in the method's folder, without suffix; None where the options name a model.
    weights: The training whose checkpoint is tested; None where there is nothing of its own.
    needs: Further trainings without which it cannot be tested.
    options: Options of ``test``.
    scales: Those of the test data that are evaluated; all by default.
    control: The row that it has to beat.
    data: Test data in place of the method's, a file of ``configs/data``: such a row is measured for
        ``Method.tables`` alone.
    """

    name: str
    label: str
    config: str | None = None
    weights: str | None = None
    needs: tuple[str, ...] = ()
    options: tuple[str, ...] = ()
    scales: tuple[float, ...] | None = None
    control: str = BICUBIC
    data: str | None = None


@dataclass(frozen=True)
class Claim:
    """Something the paper says, to be judged at each scale.

    text: The claim.
    better: The row that it says is better.
    than: The row it is compared with.
    metrics: What it is judged by.
    scales: Where; wherever both rows were measured, by default.
    """

    text: str
    better: str
    than: str
    metrics: tuple[str, ...] = ("psnr", "swd")
    scales: tuple[float, ...] | None = None


@dataclass(frozen=True)
class Gate:
    """What the base has to reach before anything is compared.

    training: The run that is tested.
    data: File of ``configs/data`` with a test source ``dataset``.
    dataset: Its name.
    scale: Of ``data``.
    margin: In dB of PSNR above bicubic.
    """

    training: str
    data: str
    dataset: str
    scale: float
    margin: float


@dataclass(frozen=True)
class Consistency:
    """Whether a row's outputs of one LR at several scales agree: SelfSSIM.

    data: Test data of one LR at several scales, a file of ``configs/data``.
    rows: Rows that are asked.
    batches: Of each source, the first so many.
    """

    data: str
    rows: tuple[str, ...]
    batches: int


@dataclass(frozen=True)
class Method:
    """A miniature of super-resolvers.

    trainings: All trainings; each comes after those that it needs.
    rows: What is tested, in the table's order; among them ``bicubic``.
    claims: What is judged.
    data: Test data, a configuration file; sources are named SET_xSCALE.
    needs: Files and folders of data and weights, with variables of the environment.
    title: In the table of all methods; empty for a miniature without claims.
    headline: The claim that represents the method in that table, by its text.
    batches: Of each test source, the first so many; all by default.
    metrics: File of the metrics.
    side: Of the test squares, in pixels.
    consistency: SelfSSIM of some rows; None to leave it out.
    gate: None where there is none.
    always: Trainings that the report reads, whatever rows are wanted.
    shown: Rows of the figure.
    shown_scales: Scales of the figure.
    pictures: Images of the figure, as SET/KEY; the first of each set by default.
    plane: Metrics of perception, each of which is drawn against PSNR.
    note: What a reader has to know of the table.
    facts: Returns numbers and verdicts beside the table, by name; gets the function from a
        training's name to its run's folder.
    tables: Returns further tables, by heading; gets the function from a row's name to its run's
        folder, and the labels of the rows that the main table lists, by name.
    strips: Returns figures that runs wrote themselves, by heading; gets both functions.
    """

    trainings: tuple[Training, ...]
    rows: tuple[Row, ...]
    claims: tuple[Claim, ...]
    data: str
    needs: tuple[str, ...] = ()
    title: str = ""
    headline: str = ""
    batches: int | None = None
    metrics: str = METRICS
    side: int = 192
    consistency: Consistency | None = None
    gate: Gate | None = None
    always: tuple[str, ...] = ()
    shown: tuple[str, ...] = ()
    shown_scales: tuple[float, ...] = ()
    pictures: tuple[str, ...] = ()
    plane: tuple[str, ...] = ()
    note: str = ""
    facts: Callable[[Folders], dict[str, float | str]] | None = None
    tables: Callable[[Folders, dict[str, str]], dict[str, Table]] | None = None
    strips: Callable[[Folders, Folders], dict[str, Path]] | None = None

    def __post_init__(self) -> None:
        """Check all names.

        Raises:
            ValueError: A training, row or claim names another that the method does not have.
        """
        trainings, rows = {t.name for t in self.trainings}, {row.name for row in self.rows}
        for training in self.trainings:
            _known(training.needs, trainings, f"training {training.name!r}")
        _known(self.always, trainings, "what the report reads")
        for row in self.rows:
            _known(row.needs, trainings, f"row {row.name!r}")
            _known((row.weights,) if row.weights else (), trainings, f"row {row.name!r}")
            _known((row.control,), rows, f"row {row.name!r}")
        for claim in self.claims:
            _known((claim.better, claim.than), rows, f"claim {claim.text!r}")
        if self.headline:
            _known((self.headline,), {claim.text for claim in self.claims}, "the headline")
        _known(self.shown, rows, "the figure")
        if self.consistency is not None:
            _known(self.consistency.rows, rows, "SelfSSIM")


@dataclass(frozen=True)
class Generators(Method):
    """A miniature of generators.

    side: Of the base's images, in pixels.
    base: The training that all rows start from.
    samples: The training that writes samples of the base, of other seeds than the rows'.
    margin: How many times the distance between real images the base may be away from them.
    curves: Labels of the trainings whose validations are drawn, by name.
    frames: Of a clip; 1 for images. Distances are of all frames.
    """

    side: int = 16
    base: str = "base"
    samples: str = "samples"
    margin: float = 1.5
    curves: dict[str, str] = field(default_factory=dict)
    frames: int = 1


def load(path: Path) -> Method:
    """Read a method's file.

    Beside the fields of ``Method``, or with ``kind: generators`` those of ``Generators``, it may
    have ``borrows``, a method whose trainings come first as ``METHOD/NAME``, and ``words``, which
    only gives options names (YAML anchors). An entry of ``options`` may be several words.

    Args:
        path: The file.

    Raises:
        ValueError: A key or name is unknown, a key is missing, or a value has another type.
    """
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    content.pop("words", None)
    kinds: dict[str, type[Method]] = {"super-resolvers": Method, "generators": Generators}
    kind = content.pop("kind", "super-resolvers")
    if kind not in kinds:
        raise ValueError(f"{path}: kind is {kind!r}; expected {' or '.join(kinds)}")
    for entry in (*content.get("trainings", ()), *content.get("rows", ())):
        if "options" in entry:
            entry["options"] = [word for words in entry["options"] for word in words.split()]
    content.setdefault("claims", [])
    if other := content.pop("borrows", None):
        before = borrowed(other, load(path.with_name(f"{other}.yaml")))
        content["trainings"] = [*map(asdict, before), *content["trainings"]]
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--method", type=kinds[kind], required=True)
    try:
        found: Any = parser.instantiate(parser.parse_object({"method": content}))
    except (ArgumentError, TypeError, ValueError) as error:
        raise ValueError(f"{path}: {error}") from error
    method: Method = found.method
    return method


def borrowed(name: str, method: Method) -> tuple[Training, ...]:
    """Trainings of another miniature, named ``METHOD/NAME``.

    Args:
        name: Of the other miniature.
        method: The other miniature.
    """

    def renamed(text: str) -> str:
        for training in method.trainings:
            text = text.replace(f"{{{training.name}}}", f"{{{name}/{training.name}}}")
        return text

    return tuple(
        replace(
            training,
            name=f"{name}/{training.name}",
            needs=tuple(f"{name}/{need}" for need in training.needs),
            options=tuple(renamed(option) for option in training.options),
            config=training.config or f"{name}/{training.name}",
        )
        for training in method.trainings
    )


def _known(names: tuple[str, ...], known: set[str], what: str) -> None:
    for name in names:
        if name not in known:
            raise ValueError(f"{what} names {name!r}; there are {', '.join(sorted(known))}")
