"""Metrics of earlier starts are kept, whatever the logger."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path

import fsspec
import pytest
from lightning.pytorch import Trainer
from lightning.pytorch.loggers import CSVLogger

from commands.errors import ConfigurationError
from commands.run.loggers import keep_earlier_metrics
from tests.quick import quick

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


@pytest.mark.parametrize("name", quick(["SimpleProfiler", "AdvancedProfiler"], "SimpleProfiler"))
def test_profilers_append(tiny: Path, enlarger: Enlarger, name: str) -> None:
    given = f"{{class_path: lightning.pytorch.profilers.{name}, "
    given += "init_args: {dirpath: logs, filename: a}}"
    sizes = []
    for number in (2, 4):
        enlarger(*FIT, number, "--trainer.profiler", given)
        sizes.append({p: p.read_text() for p in Path("logs").glob("*a.txt")})
    assert sizes[0]
    assert all(sizes[1][path].startswith(text) for path, text in sizes[0].items())


def test_on_a_server_it_is_refused(tmp_path: Path) -> None:
    store = fsspec.filesystem("memory")
    store.makedirs("/logs/a/version_0")
    store.pipe("/logs/a/version_0/metrics.csv", b"step\n1\n")
    trainer = Trainer(
        accelerator="cpu", default_root_dir=tmp_path, logger=CSVLogger("memory://logs", "a", 0)
    )
    with pytest.raises(ConfigurationError, match="remove its version"):
        keep_earlier_metrics(trainer)
    assert store.cat("/logs/a/version_0/metrics.csv") == b"step\n1\n"
