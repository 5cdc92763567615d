"""A run's own light record of what is logged, whichever logger it has: the report's curves.

A line of JSON a step in ``report/scalars.jsonl`` of the run's directory. A line is on its way to
the disk as soon as it is logged, so that a killed process loses one at most.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Mapping
from io import TextIOWrapper
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers.logger import DummyLogger
from lightning.pytorch.utilities import rank_zero_only

from callbacks.results_file import storable

log = logging.getLogger(__name__)

FILE = Path("report", "scalars.jsonl")
BEGIN = "begin"


class ScalarRecord(DummyLogger):
    """A logger that writes down scalars, and nothing else.

    Args:
        run: The run's directory.
    """

    def __init__(self, run: Path) -> None:
        super().__init__()
        self._run = run
        self._file: TextIOWrapper | None = None
        self._told = False  # that it cannot be written

    @property
    def save_dir(self) -> str:
        """The run's directory, also where a user has no logger."""
        return str(self._run)

    @rank_zero_only
    def begin(self, step: int) -> None:
        """Note that training goes on from a step: what was logged of later ones is replaced."""
        self._write({BEGIN: step})

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        """Write the scalars of a step."""
        scalars = {
            name: number for name, v in metrics.items() if (number := _number(v)) is not None
        }
        if scalars and step is not None:
            values = {name: storable(value) for name, value in scalars.items()}
            self._write({"step": int(step), "values": values})

    def _write(self, line: dict[str, Any]) -> None:
        try:
            if self._file is None:
                self._file = _opened(self._run / FILE)
            self._file.write(json.dumps(line) + "\n")
            self._file.flush()
        except OSError as error:  # curves are not worth a run
            self._file = None
            if not self._told:
                log.error("the report's curves could not be written: %s", error)
            self._told = True


def with_record(given: Any, run: Path) -> list[Any]:
    """Return the loggers of a trainer with the run's own record after them.

    Args:
        given: As configured: a logger, several, or False.
        run: The run's directory.
    """
    loggers = list(given) if isinstance(given, list | tuple) else [given] if given else []
    return [*loggers, ScalarRecord(run)]


def read_record(run: Path) -> dict[str, dict[int, float]]:
    """Read what was logged: values by name and step, the later of what was logged again.

    Args:
        run: The run's directory.

    Raises:
        OSError: There is a record, which cannot be read.
    """
    found: dict[str, dict[int, float]] = {}
    if not (run / FILE).exists():
        return found
    with (run / FILE).open(encoding="utf-8", errors="replace") as file:
        for text in file:
            try:
                line = json.loads(text)
                if BEGIN in line:
                    _forget_after(int(line[BEGIN]), found)
                    continue
                step, values = int(line["step"]), line["values"].items()
                for name, value in values:
                    found.setdefault(str(name), {})[step] = float(value)
            except (ValueError, KeyError, TypeError, AttributeError):
                continue  # cut short by the end of its process
    return found


def _forget_after(step: int, found: dict[str, dict[int, float]]) -> None:
    for name, values in found.items():
        found[name] = {at: value for at, value in values.items() if at <= step}


def _opened(path: Path) -> TextIOWrapper:
    path.parent.mkdir(parents=True, exist_ok=True)
    file = path.open("a+b")
    # A line that was cut short ends here.
    if file.seek(0, os.SEEK_END) and file.seek(-1, os.SEEK_END) and file.read() != b"\n":
        file.write(b"\n")
    return TextIOWrapper(file, encoding="utf-8")


def _number(value: Any) -> float | None:
    try:
        return float(value)
    except (TypeError, ValueError, RuntimeError):  # a picture, a text, a tensor of several
        return None
