"""The ways in which the pages promise that a recipe runs: a function each."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor

from tests.distributed.records import assert_same, newest
from tests.matrix.files import HUB, save_data, save_weights
from tests.matrix.processes import Failed, command, last_line, start
from tests.matrix.recipes import RECIPES, STEPS, Recipe, class_of


class Left(Exception):  # noqa: N818
    """A recipe does not meet a way; the text says why."""


@dataclass
class Cell:
    """A recipe in its own folder, which is the working directory.

    Args:
        recipe: The recipe.
        root: The folder of all cells.
        way: Name of the way.
    """

    recipe: Recipe
    root: Path
    way: str

    @cached_property
    def folder(self) -> Path:
        return self.root / self.recipe.run / self.way

    @property
    def trained(self) -> Path:
        """The run of the way `train`: four steps on one process."""
        return self.root / self.recipe.run / "train" / "runs" / self.recipe.run

    @property
    def own(self) -> Path:
        """The run of this cell."""
        return Path("runs", self.recipe.run)

    def begin(self) -> None:
        """Make the folder: the recipe, its data, its weights, and the runs that it stands on."""
        shutil.rmtree(self.folder, ignore_errors=True)
        (self.folder / "runs").mkdir(parents=True)
        os.chdir(self.folder)
        os.environ["ENLARGER_DATA"] = str(self.folder / "data")
        os.environ["ENLARGER_BASE_SAMPLES"] = str(self.folder / "data")
        for name in {place.partition("/")[0] for place in (*HUB, "google/")}:
            Path(name).symlink_to(self.root / name)
        for other in RECIPES:
            if other.run in self.recipe.needs and other != self.recipe:
                place = self.root / other.run / "train" / "runs" / other.run
                Path("runs", other.run).symlink_to(place)
        content = self.recipe.small
        Path("recipe.yaml").write_text(yaml.safe_dump(content))
        save_data(content)

    def run(self, verb: str, *more: object, processes: int = 1) -> None:
        """Run a command with the recipe."""
        own = [] if verb == "encode" else ["--run.name", self.recipe.run]
        options = self.recipe.command[1:] if verb == self.recipe.verb else []
        words = [verb, "--config", "recipe.yaml", *options, *own, *more]
        number = len(list(Path().glob("*.log")))
        command(words, Path(f"{number:02}-{verb}.log").absolute(), processes)

    def fit(self, steps: int = STEPS, *more: object, processes: int = 1) -> dict[str, Any]:
        """Train up to a step; return the last checkpoint."""
        self.run("fit", "--trainer.max_steps", steps, *more, processes=processes)
        checkpoint = newest(self.own)
        assert checkpoint["global_step"] >= steps, checkpoint["global_step"]
        assert_finite(checkpoint)
        return checkpoint

    def changed(self) -> dict[str, Any]:
        """Return the content, for a way to change and write."""
        return yaml.safe_load(Path("recipe.yaml").read_text())


def assert_finite(checkpoint: dict[str, Any]) -> None:
    wrong = [name for name, x in checkpoint["state_dict"].items() if not x.isfinite().all()]
    assert not wrong, f"not finite: {wrong[:3]}"


def assert_close(got: dict[str, Any], expected: dict[str, Any], within: float) -> None:
    """Assert that two checkpoints have nearly the same weights.

    Args:
        got: One.
        expected: The other.
        within: Of the largest weight of each tensor.
    """
    one, other = got["state_dict"], expected["state_dict"]
    assert one.keys() == other.keys()
    worst = {name: _difference(one[name], other[name]) for name in one}
    name = max(worst, key=lambda name: worst[name])
    assert worst[name] <= within, f"{name} differs by {worst[name]:.2g}"


def _difference(a: Tensor, b: Tensor) -> float:
    if a.numel() == 0:
        return 0.0
    return float((a.double() - b.double()).abs().max())


# -------------------------------------------------------------------------------------- the ways


def train(cell: Cell) -> None:
    """Its own command, in one process."""
    build(cell)
    if cell.recipe.verb == "fit":
        cell.fit()
        return
    cell.run(cell.recipe.verb)
    if cell.recipe.verb == "encode":
        assert list(cell.own.glob("*.tar"))
    elif not metrics_are_off(cell):
        assert_measured(cell.own)


def metrics_are_off(cell: Cell) -> bool:
    """Whether all metrics of a recipe need weights that nobody need have."""
    said = Path("01-test.0.log").read_text()
    given = cell.recipe.small["trainer"]["callbacks"]
    return said.count(" is off, no number will appear: ") == len(given)


def build(cell: Cell) -> None:
    """Write the weights that the recipe names, those of its model before the first step."""
    from commands import cli

    def stop(made: Any) -> None:
        save_weights(made.model, cell.recipe.small)
        raise SystemExit(0)

    def act() -> None:
        import main

        cli.EnlargerCLI.after_instantiate_classes = stop
        cli.needed_files = lambda *_: {}
        options = cell.recipe.command[1:]
        main.main([cell.recipe.verb, "--config", "recipe.yaml", *options])

    log = Path("build.log").absolute()
    if any(start(act, log)):
        raise Failed(f"build: {last_line(log.with_suffix('.0.log'))}")


def assert_measured(run: Path) -> None:
    measured = json.loads((run / "results.json").read_text())["results"]
    assert measured, "no results"
    wrong = [entry["metric"] for entry in measured if not abs(entry["value"]) < float("inf")]
    assert not wrong, f"not finite: {wrong}"


def resume(cell: Cell) -> None:
    """Stopped after two of four steps: the same bits."""
    cell.fit(2)
    assert_same(cell.fit(), newest(cell.trained))


def ddp(cell: Cell) -> None:
    """Two processes: one process's weights."""
    assert_close(cell.fit(processes=2), newest(cell.trained), TOLERANCE)


def to_one(cell: Cell) -> None:
    """Two steps on two processes, two on one."""
    cell.fit(2, processes=2)
    assert_close(cell.fit(), newest(cell.trained), TOLERANCE)


def to_two(cell: Cell) -> None:
    """Two steps on one process, two on two."""
    cell.fit(2)
    assert_close(cell.fit(processes=2), newest(cell.trained), TOLERANCE)


def fsdp(cell: Cell) -> None:
    """Without EMA, as its page says: trains."""
    content = cell.changed()
    given = content["trainer"].get("callbacks") or []
    content["trainer"]["callbacks"] = [c for c in given if "EMA" not in (c, class_of(c))]
    Path("recipe.yaml").write_text(yaml.safe_dump(content))
    cell.fit(2, "--trainer.strategy", "fsdp", processes=2)


def bf16(cell: Cell) -> None:
    cell.fit(2, "--trainer.precision", "bf16-mixed")


def accumulate(cell: Cell) -> None:
    """Four batches a step, of epochs with another number of them."""
    from lightning_modules.adversarial import Adversarial

    kind = type_of(cell.recipe.small["model"]["class_path"])
    option = "--trainer.accumulate_grad_batches"
    if issubclass(kind, Adversarial):
        option = f"--model.init_args.{kind.group}accumulate"
    cell.fit(2, option, 4)


def type_of(path: str) -> Any:
    import importlib

    module, _, name = path.rpartition(".")
    return getattr(importlib.import_module(module), name)


TOLERANCE = 1e-5
WAYS: dict[str, Callable[[Cell], None]] = {
    "train": train,
    "resume": resume,
    "ddp": ddp,
    "2to1": to_one,
    "1to2": to_two,
    "fsdp": fsdp,
    "bf16": bf16,
    "accumulate": accumulate,
}


def left_out(cell: Cell) -> str:
    """Return why a recipe does not meet a way; "" if it does."""
    if cell.way != "train" and not cell.recipe.trains:
        return f"its command is {cell.recipe.verb}: nothing is trained"
    return ""
