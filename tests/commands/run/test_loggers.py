"""Metrics of earlier starts are kept, whatever the logger."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path

import pytest

Enlarger = Callable[..., None]
FIT = ("fit", "--config", "tiny.yaml", "--trainer.max_steps")


def logger(name: str, version: object = 0) -> tuple[str, str]:
    given = f"{{class_path: lightning.pytorch.loggers.{name}, init_args: "
    return "--trainer.logger", f"{given}{{save_dir: logs, name: a, version: {version}}}}}"


def steps(folder: Path) -> list[set[int]]:
    """Return the steps with metrics in each file, oldest name last."""
    found = []
    for path in sorted(folder.glob("metrics.csv*")):
        with path.open(newline="") as file:
            found.append({int(row["step"]) for row in csv.DictReader(file)})
    return found


@pytest.mark.slow
@pytest.mark.parametrize("version", ["0", "mine"])
def test_a_fixed_version(
    tiny: Path, enlarger: Enlarger, caplog: pytest.LogCaptureFixture, version: str
) -> None:
    enlarger(*FIT, 4, *logger("CSVLogger", version))
    folder = Path("logs/a", "version_0" if version == "0" else version)
    (first,) = steps(folder)
    caplog.clear()
    enlarger(*FIT, 8, *logger("CSVLogger", version))
    second, kept = steps(folder)
    assert kept == first
    assert max(second) == 7
    assert "has the metrics of an earlier start" in caplog.text
    enlarger("test", "--config", "tiny.yaml", *logger("CSVLogger", version))  # logs nothing
    assert steps(folder) == [second, kept]
