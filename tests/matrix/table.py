"""The cells, which of them wait for which others, and the table of how they ended."""

from __future__ import annotations

import os
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from files import manifest
from tests.matrix.files import save_manifest, save_published
from tests.matrix.processes import end_group, fork, last_line
from tests.matrix.recipes import RECIPES, Recipe
from tests.matrix.ways import FEW, WAYS, Cell, left_out

AT_ONCE = 2  # cells, on two cores


@dataclass
class Outcome:
    """How a cell ended.

    Args:
        status: ok, FAIL or -.
        seconds: Its time.
        cpu: Processor seconds.
        why: One line, of all but `ok`.
    """

    status: str
    seconds: float = 0.0
    cpu: float = 0.0
    why: str = ""


class Table:
    """All cells that are asked for.

    Args:
        root: The folder of their files.
        recipes: Names of recipes; empty for all.
        ways: Names of ways; None for all.
        limit: Seconds of a cell.
        keep: Whether the files of cells that passed stay, which are gigabytes.
    """

    def __init__(
        self, root: Path, recipes: list[str], ways: list[str] | None, limit: float, keep: bool
    ) -> None:
        self.root = root
        self.limit = limit
        self.keep = keep
        self.recipes = [r for r in RECIPES if not recipes or r.name in recipes]
        self.ways = [way for way in WAYS if ways is None or way in ways]
        self.outcomes: dict[tuple[str, str], Outcome] = {}

    def run(self) -> None:
        """Run the cells, those first that others wait for."""
        self.root.mkdir(parents=True, exist_ok=True)
        os.environ["ENLARGER_WEIGHTS"] = str(self.root / "weights")
        published = fork(lambda: save_published(self.root), self.root / "published.log")
        if os.waitpid(published, 0)[1]:
            raise SystemExit((self.root / "published.log").read_text())
        manifest.MANIFEST = save_manifest(self.root)
        waiting = self.cells()
        running: dict[int, tuple[Cell, float]] = {}
        while waiting or running:
            while len(running) < AT_ONCE and (cell := self.ready(waiting)):
                waiting.remove(cell)
                if (process := self.begin(cell)) is not None:
                    running[process] = (cell, time.monotonic())
            time.sleep(0.02)
            for process in list(running):
                ended, status, used = os.wait4(process, os.WNOHANG)
                cell, began = running[process]
                seconds = time.monotonic() - began
                if ended:
                    del running[process]
                    self.end(cell, status, seconds, used.ru_utime + used.ru_stime)
                elif seconds > self.limit:
                    end_group(process)

    def cells(self) -> list[Cell]:
        """Return the cells in the order of the table, each after those that it needs."""
        found: dict[tuple[str, str], Cell] = {}

        def add(recipe: Recipe, way: str) -> None:
            for other in RECIPES:
                if other.run in recipe.needs and other != recipe:
                    add(other, "train")
            if way != "train":
                add(recipe, "train")
            found.setdefault((recipe.name, way), Cell(recipe, self.root, way))

        for way in self.ways:
            for recipe in self.recipes:
                if recipe.name in FEW.get(way, (recipe.name,)):
                    add(recipe, way)
        return list(found.values())

    def before(self, cell: Cell) -> list[tuple[str, str]]:
        """Return the cells that a cell needs."""
        recipes = [r for r in RECIPES if r.run in cell.recipe.needs and r != cell.recipe]
        if cell.way != "train":
            recipes.append(cell.recipe)
        return [(recipe.name, "train") for recipe in recipes]

    def ready(self, waiting: list[Cell]) -> Cell | None:
        """Return the first cell all of whose needs have ended."""
        for cell in waiting:
            if all(name in self.outcomes for name in self.before(cell)):
                return cell
        return None

    def begin(self, cell: Cell) -> int | None:
        """Start a cell, and return its process; None for one that is left out."""
        key = (cell.recipe.name, cell.way)
        failed = [
            f"{n} {way}" for n, way in self.before(cell) if self.outcomes[n, way].status != "ok"
        ]
        if failed:
            self.note(key, Outcome("FAIL", why=f"needs {failed[0]}"))
            return None
        if why := left_out(cell):
            self.note(key, Outcome("-", why=why))
            return None

        def act() -> None:
            os.setsid()  # with what it starts, so that all can be ended
            cell.begin()
            WAYS[cell.way](cell)

        cell.folder.parent.mkdir(parents=True, exist_ok=True)
        return fork(act, cell.folder.with_suffix(".log"))

    def end(self, cell: Cell, status: int, seconds: float, cpu: float) -> None:
        key = (cell.recipe.name, cell.way)
        if seconds > self.limit:
            self.note(key, Outcome("FAIL", seconds, cpu, f"no end after {self.limit:.0f} s"))
        elif status == 0:
            self.note(key, Outcome("ok", seconds, cpu))
            if cell.way != "train" and not self.keep:
                shutil.rmtree(cell.folder)
        else:
            why = last_line(cell.folder.with_suffix(".log"))
            self.note(key, Outcome("FAIL", seconds, cpu, why))

    def note(self, key: tuple[str, str], outcome: Outcome) -> None:
        self.outcomes[key] = outcome
        times = f"{outcome.seconds:6.1f} s {outcome.cpu:6.1f} s"
        print(f"{outcome.status:4} {times} {' '.join(key)} {outcome.why}", flush=True)

    def text(self) -> str:
        """Return the table, and below it why cells failed or were left out."""
        ways = [way for way in WAYS if any(way == key[1] for key in self.outcomes)]
        names = sorted({name for name, _ in self.outcomes})
        width = max(map(len, names))
        lines = [" " * width + "".join(f"{way:>11}" for way in ways)]
        notes: list[str] = []
        for name in names:
            cells = []
            for way in ways:
                outcome = self.outcomes.get((name, way))
                if outcome is None:
                    cells.append("")
                elif outcome.status == "-":
                    if outcome.why not in notes:
                        notes.append(outcome.why)
                    cells.append(f"- [{notes.index(outcome.why) + 1}]")
                elif outcome.status == "ok":
                    cells.append(f"ok {outcome.seconds:.0f}")
                else:
                    cells.append("FAIL")
            lines.append(f"{name:{width}}" + "".join(f"{cell:>11}" for cell in cells))
        lines += [f"[{n}] {note}" for n, note in enumerate(notes, 1)]
        lines += [
            f"FAIL {n} {w}: {o.why}" for (n, w), o in self.outcomes.items() if o.status == "FAIL"
        ]
        return "\n".join(lines)

    def content(self, seconds: float) -> dict[str, Any]:
        rows = {f"{name} {way}": vars(outcome) for (name, way), outcome in self.outcomes.items()}
        return {"seconds": round(seconds), "cells": rows}

    def count(self, status: str) -> int:
        return sum(outcome.status == status for outcome in self.outcomes.values())
