"""What a miniature is made of: trainings, rows with their controls, claims, a gate.

Options are those of ``main.py``; ``{NAME}`` in them stands for the run of a training.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

CONFIGS = "configs/experiment/mini"
METRICS = "configs/callbacks/mini.yaml"
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
    config: str | None
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
    """A method's miniature.

    trainings: What is trained.
    rows: What is tested, in the table's order; among them ``bicubic``.
    claims: What is judged.
    data: Test data, a file of ``configs/data``; sources are named SET_xSCALE.
    batches: Of each source of it, the first so many; all by default.
    consistency: None where it is not asked for.
    gate: None where there is none.
    shown: Rows of the picture.
    shown_scales: Scales of the picture.
    pictures: Images of the picture, as SET/KEY; the first of each set by default.
    note: What a reader has to know of the table.
    metrics: File of the metrics.
    side: Of the squares that are tested, in pixels.
    tables: Further tables, by heading: of the folder of a row's run, by its name.
    facts: Numbers and verdicts beside the table, by what they are: of the folder of a training, by
        its name.
    headline: The claim that stands for all in the table of all methods, by its text.
    plane: Metrics of perception, each of which is drawn against PSNR.
    strips: Pictures that runs wrote themselves, by what they show: of the folder of a row's run,
        and of that of a training, by their names.
    """

    trainings: tuple[Training, ...]
    rows: tuple[Row, ...]
    claims: tuple[Claim, ...]
    data: str
    batches: int | None = None
    consistency: Consistency | None = None
    gate: Gate | None = None
    shown: tuple[str, ...] = ()
    shown_scales: tuple[float, ...] = ()
    pictures: tuple[str, ...] = ()
    note: str = ""
    metrics: str = METRICS
    facts: Callable[[Callable[[str], Path]], dict[str, float | str]] | None = None
    always: tuple[str, ...] = ()
    side: int = 192
    tables: Callable[[Callable[[str], Path]], dict[str, Table]] | None = None
    headline: str = ""
    plane: tuple[str, ...] = ()
    strips: Callable[[Folders, Folders], dict[str, Path]] | None = None

    def __post_init__(self) -> None:
        """Refuse names that are not there.

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
        _known(self.shown, rows, "the picture")
        if self.consistency is not None:
            _known(self.consistency.rows, rows, "SelfSSIM")


def borrowed(name: str, method: Method) -> tuple[Training, ...]:
    """The trainings of another miniature, to be named ``METHOD/NAME``.

    Args:
        name: Of the other one.
        method: The other one.
    """

    def there(text: str) -> str:
        for training in method.trainings:
            text = text.replace(f"{{{training.name}}}", f"{{{name}/{training.name}}}")
        return text

    return tuple(
        replace(
            training,
            name=f"{name}/{training.name}",
            needs=tuple(f"{name}/{need}" for need in training.needs),
            options=tuple(there(option) for option in training.options),
            config=training.config or f"{name}/{training.name}",
        )
        for training in method.trainings
    )


def _known(names: tuple[str, ...], there: set[str], who: str) -> None:
    for name in names:
        if name not in there:
            raise ValueError(f"{who} names {name!r}; there are {', '.join(sorted(there))}")
