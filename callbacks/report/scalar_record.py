"""A run's own record of logged scalars, for the report's curves, with any logger or none.

One line of JSON per step in ``report/scalars.jsonl`` of the run's directory, with the time in
seconds since 1970. Each line is written as soon as it is logged, so that a killed process loses one
at most.
"""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Mapping
from io import TextIOWrapper
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers.logger import DummyLogger
from lightning.pytorch.utilities import rank_zero_only

from callbacks.results.files import storable
from files.owned import refuse_foreign, refuse_moved

log = logging.getLogger(__name__)
FILE = Path("report", "scalars.jsonl")
BEGIN = "begin"


class ScalarRecord(DummyLogger):
    """A logger that records scalars only.

    Args:
        run: The run's directory.
    """

    def __init__(self, run: Path) -> None:
        super().__init__()
        self._run = run
        self._file: TextIOWrapper | None = None
        self._failed = False  # whether an error was reported

    @property
    def save_dir(self) -> str:
        """The run's directory, even if a user has no logger."""
        return str(self._run)

    @rank_zero_only
    def begin(self, step: int) -> None:
        """Record that training continues from a step: scalars of later steps are replaced."""
        self._write({BEGIN: step})

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        """Write the scalars of a step."""
        scalars = {}
        for name, value in metrics.items():
            number = _number(value)
            if number is not None:
                scalars[name] = number
        if scalars and step is not None:
            line = {"step": int(step), "values": scalars, "time": round(time.time(), 3)}
            self._write(storable(line))

    def _write(self, line: dict[str, Any]) -> None:
        try:
            refuse_moved(self._run)
            if self._file is None:
                self._file = _opened(self._run / FILE)
            self._file.write(json.dumps(line) + "\n")
            self._file.flush()
        except OSError as error:  # must not end the run
            self._file = None
            if not self._failed:
                log.error("the report's curves could not be written: %s", error)
            self._failed = True


def with_record(loggers: Any, run: Path) -> list[Any]:
    """Return the loggers of a trainer with the run's own record after them.

    Args:
        loggers: As configured: a logger, several, or False.
        run: The run's directory.
    """
    if not isinstance(loggers, list | tuple):
        loggers = [loggers] if loggers else []
    return [*loggers, ScalarRecord(run)]


def read_record(run: Path) -> dict[str, dict[int, float]]:
    """Read the logged values by name and step; if a step was logged again, the later value.

    Args:
        run: The run's directory.

    Raises:
        OSError: If the record exists but cannot be read.
    """
    curves: dict[str, dict[int, float]] = {}
    if not (run / FILE).exists():
        return curves
    with (run / FILE).open(encoding="utf-8", errors="replace") as file:
        for text in file:
            try:
                line = json.loads(text)
                if BEGIN in line:
                    begin = int(line[BEGIN])  # later steps of an earlier start are void
                    for name, curve in curves.items():
                        curves[name] = {step: v for step, v in curve.items() if step <= begin}
                    continue
                step = int(line["step"])
                for name, value in line["values"].items():
                    curves.setdefault(str(name), {})[step] = float(value)
            except (ValueError, KeyError, TypeError, AttributeError):
                continue  # truncated, as its process was killed, or of other origin
    return curves


def _opened(path: Path) -> TextIOWrapper:
    refuse_foreign(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    file = path.open("a+b")
    # Ends a truncated line.
    if file.seek(0, os.SEEK_END) and file.seek(-1, os.SEEK_END) and file.read() != b"\n":
        file.write(b"\n")
    return TextIOWrapper(file, encoding="utf-8")


def _number(value: Any) -> float | None:
    try:
        return float(value)
    except (TypeError, ValueError, RuntimeError):  # an image, a text, a tensor of several
        return None
