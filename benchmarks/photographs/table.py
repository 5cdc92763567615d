"""A table of trainings, rows and claims, such as `benchmarks/configs/photographs.yaml`.

Options in it are those of ``main.py``. Runs of the table ``NAME.yaml`` are in ``runs/NAME``. A path
below ``runs/NAME/trainings`` in options, or in a configuration file, is the run of another
training, which is then done first.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from jsonargparse import ArgumentError, ArgumentParser

from benchmarks.report import REPOSITORY
from files.yaml import plain_yaml

CONFIGS = "benchmarks/configs/photographs"
TABLE = REPOSITORY / f"{CONFIGS}.yaml"


@dataclass(frozen=True)
class Training:
    """A command that trains, or that encodes latents for others.

    name: Name of its run.
    config: File; that of its name in ``benchmarks/configs/photographs`` by default.
    options: Options beside the file.
    verb: ``fit`` or ``encode``.
    """

    name: str
    config: str = ""
    options: tuple[str, ...] = ()
    verb: Literal["fit", "encode"] = "fit"

    @property
    def file(self) -> str:
        """The configuration file."""
        return self.config or f"{CONFIGS}/{self.name}.yaml"


@dataclass(frozen=True)
class Row:
    """A row: a model, tested on one set.

    name: Name of its run.
    label: Name on the page.
    set: Name of the set.
    of: Training whose file and weights it has; empty where it has none.
    options: Options of ``test``.
    about: What was seen in its images.
    generative: Whether it has controls: noise and sharpening.
    sheet: Table whose images are shown; none if empty.
    """

    name: str
    label: str
    set: str
    of: str = ""
    options: tuple[str, ...] = ()
    about: str = ""
    generative: bool = False
    sheet: str = ""


@dataclass(frozen=True)
class Set:
    """What rows are tested on.

    tables: Names of its datasets; the page has a table for each.
    options: Options of ``test``.
    """

    tables: tuple[str, ...]
    options: tuple[str, ...]


@dataclass(frozen=True)
class Compared:
    """A table of the page: all rows that are tested on one dataset.

    title: Its heading.
    scale: Factor, rounded up; 0 for one whose numbers are those of ``main.py test``.
    bicubic: Row that enlarges by bicubic, if the table has generative rows.
    regression: Row of one pass, likewise.
    samples: Rows of images generated without LR, whose first squares are shown line by line.
    about: What was seen in these.
    on_page: Whether the page has it; the JSON has all.
    """

    title: str
    scale: int = 0
    bicubic: str = ""
    regression: str = ""
    samples: tuple[str, ...] = ()
    about: str = ""
    on_page: bool = True


@dataclass(frozen=True)
class Claim:
    """A sentence that should hold of a row, on all tables that are named.

    text: The sentence.
    row: The row.
    tables: Names of the tables.
    than: Another row that it is compared with; if empty, the claim is one of detail: better than
        the regression, and than all controls, at NIQE and SWD halved.
    metric: The metric of the comparison with another row.
    """

    text: str
    row: str
    tables: tuple[str, ...]
    than: str = ""
    metric: str = ""


@dataclass(frozen=True)
class Sheet:
    """Rows that an image shows beside each other.

    rows: Names of the rows.
    images: Names of the images that are shown; those of the table if empty.
    """

    rows: tuple[str, ...]
    images: tuple[str, ...] = ()


@dataclass(frozen=True)
class Table:
    """All of the table.

    name: Name of its file, of its folder in ``runs``, and of the results.
    sets: What rows are tested on, by name.
    tables: Tables of the page, by the name of their dataset.
    trainings: All trainings; each comes after those that it needs.
    rows: All rows; each comes after the controls of its tables.
    claims: All claims.
    shown: Names of the images that are shown.
    sheets: Images of several rows, by name.
    gpu: Whether its trainings are sized for a GPU. Their weights are kept in half precision, too.
    """

    name: str
    sets: dict[str, Set]
    tables: dict[str, Compared]
    trainings: tuple[Training, ...]
    rows: tuple[Row, ...]
    claims: tuple[Claim, ...] = ()
    shown: tuple[str, ...] = ()
    sheets: dict[str, Sheet] = field(default_factory=dict)
    gpu: bool = False

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
            _check(
                self.runs_in(training.options), trainings[:number], f"training {training.name!r}"
            )
        for name, tested in self.sets.items():
            _check(tested.tables, self.tables, f"set {name!r}")
        for row in self.rows:
            _check([row.set], self.sets, f"row {row.name!r}")
            _check([*filter(None, [row.of]), *self.runs_in(row.options)], trainings, row.name)
            _check(filter(None, [row.sheet]), self.tables, f"row {row.name!r}")
        for name, table in self.tables.items():
            shown = filter(None, [table.bicubic, table.regression, *table.samples])
            _check(shown, rows, f"table {name!r}")
        for name, sheet in self.sheets.items():
            _check(sheet.rows, rows, f"sheet {name!r}")
        for claim in self.claims:
            _check(claim.tables, self.tables, f"claim {claim.text!r}")
            against = [claim.than or self.tables[name].regression for name in claim.tables]
            _check([claim.row, *against], rows, f"claim {claim.text!r}")

    @property
    def runs(self) -> Path:
        """Folder of all its runs."""
        return Path("runs") / self.name

    @property
    def trainings_folder(self) -> Path:
        """Folder of the runs of trainings."""
        return self.runs / "trainings"

    @property
    def rows_folder(self) -> Path:
        """Folder of the runs of rows."""
        return self.runs / "rows"

    def training(self, name: str) -> Training:
        """Return a training by its name."""
        return next(training for training in self.trainings if training.name == name)

    def wanted(self, only: Collection[str]) -> list[Row]:
        """Return rows with their controls, in their order.

        Args:
            only: Names of the rows; all if empty.
        """
        names = set(only or [row.name for row in self.rows])
        for row in self.rows:
            if row.name in names:
                for compared in map(self.tables.__getitem__, self.sets[row.set].tables):
                    names |= {compared.bicubic, compared.regression} - {""}
        return [row for row in self.rows if row.name in names]

    def training_command(self, training: Training) -> list[str]:
        """Return the arguments of ``main.py`` that train."""
        words = [training.verb, "--config", training.file, *training.options]
        if training.verb == "encode":
            return [*words, "--encode.out", str(self.trainings_folder / training.name)]
        return [*words, "--run.root", str(self.trainings_folder), "--run.name", training.name]

    def test_command(self, row: Row) -> list[str]:
        """Return the arguments of ``main.py`` that test a row."""
        words = ["test"]
        if row.of:
            training = self.training(row.of)
            words += ["--config", training.file, *of_model(training.options)]
            words += ["--model.init_args.weights", str(self.trainings_folder / row.of)]
        words += [*row.options, *self.sets[row.set].options]
        words += ["--run.root", str(self.rows_folder), "--run.name", row.name]
        return [*words, "--seed_everything", "0"]

    def needed(self, words: Iterable[str]) -> list[Training]:
        """Return the trainings that a command needs, in their order.

        Args:
            words: Its arguments.
        """
        names, new = set[str](), self.runs_in(words)
        while new:
            names.update(new)
            commands = [self.training_command(self.training(name)) for name in new]
            new = [n for words in commands for n in self.runs_in(words) if n not in names]
        return [training for training in self.trainings if training.name in names]

    def runs_in(self, words: Iterable[str]) -> list[str]:
        """Return the trainings whose runs are named in options, or in the files that these name.

        Args:
            words: Options; the folder and name of the command's own run are apart, and do not
                count.
        """
        run = re.compile(rf"{self.trainings_folder.as_posix()}/(\w+)")
        return [name for text in texts(words) for name in run.findall(text)]


def texts(words: Iterable[str]) -> list[str]:
    """Return options, each file of our configurations as its content."""
    return [
        (REPOSITORY / word).read_text(encoding="utf-8")
        if word.startswith(("benchmarks/", "configs/")) and word.endswith(".yaml")
        else word
        for word in words
    ]


def of_model(options: Iterable[str]) -> list[str]:
    """Return the options of the model, with their values."""
    kept, keep = [], False
    for word in options:
        keep = word.startswith("--model.") if word.startswith("--") else keep
        kept += [word] if keep else []
    return kept


def load(path: Path = TABLE, small: bool = False) -> Table:
    """Read a table. An entry of ``options`` may be several words.

    A row with ``also: [set]`` stands for another row, without controls and images, tested on that
    set.

    Args:
        path: The file.
        small: Whether the options ``small`` of trainings and sets follow their others: the
            rehearsal of a table for a GPU. Its name, and so its folder in ``runs``, ends in
            ``_small``.

    Raises:
        ValueError: If a key or name is unknown, a key is missing, or a value has another type.
    """
    name, text = path.stem, path.read_text(encoding="utf-8")
    if small:
        text = text.replace(f"runs/{name}/", f"runs/{name}_small/")
        name = f"{name}_small"
    content = plain_yaml(text) | {"name": name}
    content.pop("words", None)  # anchors
    content["rows"] = [each for entry in content["rows"] for each in _for_each_set(entry)]
    for entry in (*content["trainings"], *content["rows"], *content["sets"].values()):
        rehearsal = entry.pop("small", [])
        options = [*entry.get("options", []), *(rehearsal if small else [])]
        entry["options"] = " ".join(options).split()
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--table", type=Table, required=True)
    try:
        found: Any = parser.instantiate(parser.parse_object({"table": content}))
    except (ArgumentError, TypeError, ValueError) as error:
        raise ValueError(f"{path}: {error}") from error
    table: Table = found.table
    return table


def _for_each_set(entry: dict[str, Any]) -> list[dict[str, Any]]:
    """Return a row, and what it is on the other sets that it names."""
    other = {k: v for k, v in entry.items() if k not in ("generative", "sheet", "about", "also")}
    also = entry.pop("also", [])
    return [entry, *(other | {"name": f"{entry['name']}_{name}", "set": name} for name in also)]


def _check(names: Iterable[str], among: Iterable[str], what: str) -> None:
    for name in names:
        if name not in among:
            raise ValueError(f"{what} names {name!r}; expected one of {', '.join(sorted(among))}")
