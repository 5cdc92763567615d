"""The table of the miniature: its trainings, rows and claims, and the commands that fill it.

The table is a YAML file, ``benchmarks/configs/cars.yaml``. Options in it are those of ``main.py``;
``{NAME}`` in them stands for the run of the training NAME, which is then trained first.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

from jsonargparse import ArgumentError, ArgumentParser

from benchmarks.miniature.jobs import REPOSITORY, Job
from commands.run.files import FOLDER, best_or_newest, fingerprint
from datamodules.sources.latents import ABOUT
from files.yaml_loader import plain_yaml

CONFIGS = "benchmarks/configs/cars"
TABLE = REPOSITORY / f"{CONFIGS}.yaml"
LEAST = 2  # steps of the shortest training
STARTS, TESTED = 0.2, 0.7  # minutes until a command has begun, and that a row is expected to take


@dataclass(frozen=True)
class Training:
    """A command that trains, or that encodes latents for others.

    name: Name of its run.
    config: File, with the folder; ``benchmarks/configs/cars/NAME.yaml`` by default.
    options: Options beside the file.
    verb: ``fit`` or ``encode``.
    steps: Steps instead of the file's.
    minutes: Expected time on one core of the machine that the page names.
    """

    name: str
    config: str = ""
    options: tuple[str, ...] = ()
    verb: Literal["fit", "encode"] = "fit"
    steps: int | None = None
    minutes: float = 1.0

    @property
    def file(self) -> str:
        """The configuration file."""
        return self.config or f"{CONFIGS}/{self.name}.yaml"


@dataclass(frozen=True)
class Row:
    """A row of the table: a model, tested on one task.

    name: Name of its run.
    label: Name in the table and in the image.
    task: Name of the task.
    of: Training whose file and weights it has; empty where it has none.
    config: File of a model that is not trained; empty where the options name a model.
    options: Options of ``test``.
    generative: Whether it must be nearer to HR than bicubic and the regression by SWD.
    shown: Whether it is in the image.
    """

    name: str
    label: str
    task: str
    of: str = ""
    config: str = ""
    options: tuple[str, ...] = ()
    generative: bool = False
    shown: bool = True


@dataclass(frozen=True)
class Task:
    """What a group of rows does.

    title: Heading of its table.
    data: File of the test data.
    options: Options of ``test`` for all of its rows.
    metrics: File of the callbacks.
    bicubic: Row that generative rows are compared with.
    regression: Row of equal steps that generative rows are compared with.
    """

    title: str
    data: str
    options: tuple[str, ...] = ()
    metrics: str = f"{CONFIGS}/metrics.yaml"
    bicubic: str = ""
    regression: str = ""


@dataclass(frozen=True)
class Claim:
    """Something that should hold of a row.

    text: The claim.
    row: The row.
    metric: Name of the metric.
    than: The row that it is compared with, or a number.
    margin: What is added to the value of ``than``.
    """

    text: str
    row: str
    metric: str
    than: str | float
    margin: float = 0.0


@dataclass(frozen=True)
class Table:
    """All of the table.

    tasks: Tasks by name.
    trainings: All trainings; each comes after those that it needs.
    rows: All rows, in the order of the page.
    claims: Claims beside those that every generative row has.
    front: Rows in the README's image.
    note: What a reader has to know.
    """

    tasks: dict[str, Task]
    trainings: tuple[Training, ...]
    rows: tuple[Row, ...]
    claims: tuple[Claim, ...] = ()
    front: tuple[str, ...] = ()
    note: str = ""

    def __post_init__(self) -> None:
        """Check all names.

        Raises:
            ValueError: If a name is used twice, or a name that is used is unknown.
        """
        trainings, rows = [t.name for t in self.trainings], [row.name for row in self.rows]
        for names in (trainings, rows):
            if twice := sorted({name for name in names if names.count(name) > 1}):
                raise ValueError(f"{', '.join(twice)} is there twice: rename one")
        for number, training in enumerate(self.trainings):
            _check(marks(training.options), trainings[:number], f"training {training.name!r}")
        for row in self.rows:
            _check([row.task], self.tasks, f"row {row.name!r}")
            _check([*([row.of] if row.of else []), *marks(row.options)], trainings, row.name)
        for name, task in self.tasks.items():
            _check(filter(None, (task.bicubic, task.regression)), rows, f"task {name!r}")
        _check(self.front, rows, "`front`")
        for claim in self.claims:
            others = [claim.than] if isinstance(claim.than, str) else []
            _check([claim.row, *others], rows, f"claim {claim.text!r}")

    def all_claims(self) -> list[Claim]:
        """Return the claims, those that every generative row has last."""
        generative = [row for row in self.rows if row.generative]
        nearer = "generative rows are nearer to HR than bicubic"
        finer = "generative rows have finer detail than a regression"
        return [
            *self.claims,
            *(Claim(nearer, r.name, "swd", self.tasks[r.task].bicubic) for r in generative),
            *(Claim(nearer, r.name, "swd_2", self.tasks[r.task].bicubic) for r in generative),
            *(Claim(finer, r.name, "swd", self.tasks[r.task].regression) for r in generative),
        ]


def marks(options: Iterable[str]) -> list[str]:
    """Return the names of the trainings whose runs options name."""
    return list(dict.fromkeys(re.findall(r"\{(\w+)\}", " ".join(options))))


def of_model(options: Iterable[str]) -> list[str]:
    """Return the options of the model, with their values."""
    kept, keep = [], False
    for word in options:
        keep = word.startswith("--model.") if word.startswith("--") else keep
        kept += [word] if keep else []
    return kept


def load(path: Path = TABLE) -> Table:
    """Read a table. An entry of ``options`` may be several words; ``words`` only holds anchors.

    Args:
        path: The file.

    Raises:
        ValueError: If a key or name is unknown, a key is missing, or a value has another type.
    """
    content = plain_yaml(path.read_text(encoding="utf-8"))
    content.pop("words", None)
    for entry in (*content["trainings"], *content["rows"], *content["tasks"].values()):
        if "options" in entry:
            entry["options"] = [word for words in entry["options"] for word in words.split()]
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--table", type=Table, required=True)
    try:
        found: Any = parser.instantiate(parser.parse_object({"table": content}))
    except (ArgumentError, TypeError, ValueError) as error:
        raise ValueError(f"{path}: {error}") from error
    table: Table = found.table
    return table


class Plan(NamedTuple):
    """What is asked for.

    table: The table.
    runs: Folder of everything that is made.
    seeds: Number of sampling seeds.
    steps: Factor of each training's steps. Below 1, only the first batch is tested.
    only: Names of the wanted rows; all if empty.
    """

    table: Table
    runs: Path
    seeds: int = 3
    steps: float = 1.0
    only: tuple[str, ...] = ()

    @property
    def rows(self) -> list[Row]:
        """The wanted rows."""
        return [row for row in self.table.rows if not self.only or row.name in self.only]

    @property
    def data(self) -> Path:
        """Folder of the images."""
        return self.runs / "data"

    def trained(self, training: str) -> Path:
        """Return the folder of a training's run."""
        return self.runs / "trainings" / training

    def run_of(self, row: str) -> Path:
        """Return the folder of a row's run."""
        return self.runs / "rows" / row

    def jobs(self) -> list[Job]:
        """Return all commands; each comes after those that it needs."""
        wanted = {name for row in self.rows for name in self._needs(row)}
        for training in reversed(self.table.trainings):
            if training.name in wanted:
                wanted.update(marks(training.options))
        fits = [self._train(t) for t in self.table.trainings if t.name in wanted]
        return fits + [self._test(row) for row in self.rows]

    def _train(self, training: Training) -> Job:
        run, needs = self.trained(training.name), marks(training.options)
        words = [training.verb, "--config", training.file, *self._filled(training.options)]
        if training.verb == "encode":
            words += ["--encode.out", str(run)]
        else:
            words += with_steps(read_whole(REPOSITORY / training.file), training, self.steps)
            words += ["--run.root", str(run.parent), "--run.name", run.name]
        return Job(
            f"fit {training.name}",
            tuple(words),
            self.runs / "jobs" / f"fit_{training.name}",
            tuple(f"fit {name}" for name in needs),
            partial(self._inputs, needs, [training.file]),
            run if training.verb == "encode" else None,
            STARTS + training.minutes * (self.steps if training.verb == "fit" else 1),
        )

    def _test(self, row: Row) -> Job:
        task, needs, run = self.table.tasks[row.task], self._needs(row), self.run_of(row.name)
        words, file = [], row.config
        if row.of:
            training = self._training(row.of)
            file = training.file
            words += self._filled(of_model(training.options))
            words += ["--model.init_args.weights", str(self.trained(row.of))]
        words += self._filled([*task.options, *row.options])
        if self.steps < 1:
            words += ["--trainer.limit_test_batches", "1"]
        read = [file, task.data, task.metrics, *(w for w in words if w.endswith(".yaml"))]
        return Job(
            f"test {row.name}",
            (
                *("test", *(("--config", file) if file else ()), *words),
                *("--data", task.data, "--trainer.callbacks", task.metrics),
                *("--run.root", str(run.parent), "--run.name", run.name),
                *("--trainer.logger", "false", "--seed_everything", "0"),
                *("--run.seeds", str(self.seeds)),
            ),
            self.runs / "jobs" / f"test_{row.name}",
            tuple(f"fit {name}" for name in needs),
            partial(self._inputs, needs, [name for name in read if name]),
            run,
            TESTED,
        )

    def _training(self, name: str) -> Training:
        return next(training for training in self.table.trainings if training.name == name)

    def _needs(self, row: Row) -> list[str]:
        own = [row.of, *marks(of_model(self._training(row.of).options))] if row.of else []
        return list(dict.fromkeys([*own, *marks(row.options)]))

    def _filled(self, options: Iterable[str]) -> list[str]:
        def run(found: re.Match[str]) -> str:
            return str(self.trained(found[1]))

        return [re.sub(r"\{(\w+)\}", run, option) for option in options]

    def _inputs(self, trainings: Sequence[str], files: Sequence[str]) -> str:
        """A digest of the images, weights and configuration files that a command reads."""
        found: list[Any] = [read_whole(REPOSITORY / file) for file in files]
        for name in trainings:
            checkpoint = best_or_newest(self.trained(name) / FOLDER)
            latents = self.trained(name) / ABOUT
            if checkpoint is not None:
                found.append(fingerprint(checkpoint[0]))
            elif latents.is_file():
                found.append(json.loads(latents.read_text(encoding="utf-8")))
        return hashlib.sha256(json.dumps(found, sort_keys=True).encode()).hexdigest()[:16]


def read_whole(path: Path) -> Any:
    """Return a configuration file's content, with that of files that it names in their places.

    Args:
        path: The file.
    """

    def with_files(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: with_files(inner) for key, inner in value.items()}
        if isinstance(value, list):
            return [with_files(inner) for inner in value]
        named = path.parent / value if isinstance(value, str) and value.endswith(".yaml") else None
        return read_whole(named) if named is not None and named.is_file() else value

    return with_files(plain_yaml(path.read_text(encoding="utf-8")))


def with_steps(config: dict[str, Any], training: Training, factor: float) -> list[str]:
    """Return options for another number of steps, also in all that is to end or begin with them.

    Args:
        config: A training's whole configuration.
        training: The training.
        factor: Factor of its steps.
    """
    steps = config["trainer"]["max_steps"]
    factor *= (training.steps or steps) / steps
    if factor == 1:
        return []
    options = ["--trainer.max_steps", str(max(LEAST, round(steps * factor)))]
    for key, value in _counts(config["model"].get("init_args", {}), "--model.init_args"):
        least = 0 if key.endswith(("warm_up", "start")) else LEAST
        options += [key, str(max(least, round(value * factor)))]
    return options


def _counts(arguments: dict[str, Any], above: str) -> Iterator[tuple[str, int]]:
    """Yield the options that count training steps: those of schedules, and later starts."""
    for key, value in arguments.items():
        name = f"{above}.{key}"
        if isinstance(value, dict):
            yield from _counts(value, name)
        elif key == "adversarial_start" or (
            "lr_scheduler.init_args" in above and key in ("T_max", "steps", "warm_up")
        ):
            yield name, value


def _check(names: Iterable[str], known: Iterable[str], what: str) -> None:
    for name in names:
        if name not in known:
            raise ValueError(f"{what} names {name!r}; expected one of {', '.join(sorted(known))}")
