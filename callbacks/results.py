"""Numbers of ``validate`` and ``test``: a table, and ``results.json`` in the run's directory."""

from __future__ import annotations

import json
import logging
import math
import os
import platform
import shlex
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, TypedDict

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn
from rich.console import Console
from rich.table import Table

from callbacks.base import Metric, MetricProtocol, Record, all_callbacks, steps_done

log = logging.getLogger(__name__)

PACKAGES = ("torch", "lightning", "torchmetrics", "numpy")


class Result(Record):
    """A number, and the weights it belongs to.

    checkpoint: File or name of the weights; None for a method without any; ``bicubic`` for a
        metric's control.
    """

    checkpoint: str | None


class ResultsFile(TypedDict):
    """What ``results.json`` holds.

    results: One entry for each dataset, scale, metric, protocol and checkpoint.
    command: The command that wrote last.
    commit: The commit of the code then, ``-dirty`` with local changes; None outside of git.
    versions: Versions of Python and of the packages that numbers depend on.
    """

    results: list[Result]
    command: str
    commit: str | None
    versions: dict[str, str]


class Results(Callback):
    """Keep the numbers of ``validate`` and ``test`` in the run's directory, and show them.

    A new number replaces that of the same dataset, scale, metric, protocol and checkpoint; all
    others stay. The validations within ``fit`` are in the logs instead; a line says how far the
    model is from bicubic, where a metric has that control.

    Args:
        filename: Name of the file in the run's directory.
    """

    def __init__(self, filename: str = "results.json") -> None:
        super().__init__()
        self.filename = filename

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Store and show what ``validate`` found; in ``fit``, say how far it is from bicubic."""
        if trainer.state.fn == TrainerFn.VALIDATING:
            self._report(trainer, pl_module)
        elif not trainer.sanity_checking and trainer.is_global_zero:
            for line in margins(all_callbacks(trainer)):
                log.info("step %d, %s", steps_done(trainer, pl_module), line)

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Store and show what ``test`` found."""
        self._report(trainer, pl_module)

    def _report(self, trainer: Trainer, pl_module: LightningModule) -> None:
        metrics = [c for c in all_callbacks(trainer) if isinstance(c, Metric)]
        checkpoint = getattr(pl_module, "weights_source", None)
        results: list[Result] = []
        for metric in metrics:
            results += [{**record, "checkpoint": checkpoint} for record in metric.records]
            results += [{**record, "checkpoint": "bicubic"} for record in metric.control_records]
        if not results or not trainer.is_global_zero:
            return
        path = Path(trainer.default_root_dir, self.filename)
        write_results(path, merge(_readable(path), results))
        Console().print(table(results))
        log.info("numbers and protocols: %s", path)


def margins(callbacks: list[Callback]) -> list[str]:
    """A line for each metric and dataset with a control: its value, and how it compares."""
    lines = []
    for metric in callbacks:
        if not isinstance(metric, Metric):
            continue
        controls = {(r["dataset"], r["metric"]): r["value"] for r in metric.control_records}
        for record in metric.records:
            if (bicubic := controls.get((record["dataset"], record["metric"]))) is None:
                continue
            difference = record["value"] - bicubic
            better = (difference > 0) == metric.higher_is_better and difference != 0
            lines.append(
                f"{record['dataset']} x{record['scale']:g}: {record['metric']} "
                f"{record['value']:.4f}, bicubic {bicubic:.4f}: {difference:+.4f}, "
                f"{'better' if better else 'not better'}"
            )
    return lines


def load_results(path: str | Path) -> ResultsFile:
    """Read a ``results.json``.

    Raises:
        ValueError: The file is damaged, or no file of results.
    """
    try:
        content = json.loads(Path(path).read_text())
        for result in content["results"]:
            result["value"] = float(result["value"])  # "inf" and "nan" are strings in JSON
            _identity(result)
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is no file of results, or damaged: {error!r}") from error
    return content


def write_results(path: Path, results: list[Result]) -> None:
    """Write ``results`` with command, commit and versions; whole or not at all.

    Args:
        path: The file; its folder is made.
        results: All that is to be in it.
    """
    storable = [
        {**r, "value": r["value"] if math.isfinite(r["value"]) else str(r["value"])}
        for r in results
    ]
    content = {
        "results": storable,
        "command": shlex.join(sys.argv),
        "commit": _commit(),
        "versions": _versions(),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        beside.write_text(json.dumps(content, indent=2, allow_nan=False) + "\n")
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)


def merge(old: list[Result], new: list[Result]) -> list[Result]:
    """``old``, with what ``new`` measures again replaced in its place, and the rest appended."""
    merged = {_identity(result): result for result in old}
    merged.update((_identity(result), result) for result in new)
    return list(merged.values())


def columns(results: list[Result]) -> dict[str, tuple[str, MetricProtocol]]:
    """Columns of a table: numbers of different protocols never share one.

    Returns:
        Of each metric and protocol, by ``column_of`` of any of its results: the heading, which is
        the metric's name, with a number where it has several protocols; and the protocol.
    """
    protocols: dict[str, dict[str, MetricProtocol]] = {}
    for result in results:
        kinds = protocols.setdefault(result["metric"], {})
        kinds.setdefault(column_of(result), result["protocol"])
    return {
        column: (metric if len(kinds) == 1 else f"{metric} ({number})", protocol)
        for metric, kinds in protocols.items()
        for number, (column, protocol) in enumerate(kinds.items(), start=1)
    }


def column_of(result: Result) -> str:
    """What a number must share with others to stand in one column with them."""
    return json.dumps([result["metric"], result["protocol"]], sort_keys=True)


def table(results: list[Result]) -> Table:
    """Rows are datasets, columns metrics of one protocol each; the protocols stand below."""
    rows: dict[tuple[str, float, str | None], dict[str, Result]] = {}
    for r in results:
        row = rows.setdefault((r["dataset"], r["scale"], r["checkpoint"]), {})
        row[column_of(r)] = r
    headings = columns(results)
    lines = [f"{heading}: {describe(protocol)}" for heading, protocol in headings.values()]
    shown = Table(caption="\n".join(lines), caption_justify="left")
    shown.add_column("dataset")
    for heading in ("scale", *(heading for heading, _ in headings.values()), "n"):
        shown.add_column(heading, justify="right", no_wrap=True)
    shown.add_column("checkpoint", overflow="fold")
    for (dataset, scale, checkpoint), found in rows.items():
        values = [f"{found[c]['value']:.4f}" if c in found else "-" for c in headings]
        counts = "/".join(str(n) for n in dict.fromkeys(r["n"] for r in found.values()))
        shown.add_row(dataset, f"x{scale:g}", *values, counts, checkpoint or "-")
    return shown


def describe(protocol: MetricProtocol) -> str:
    """A protocol in one line."""
    return ", ".join(f"{key} {value}" for key, value in protocol.items())


def _identity(result: Result) -> str:
    keys = ("dataset", "scale", "metric", "protocol", "checkpoint")
    return json.dumps([result[key] for key in keys], sort_keys=True)  # type: ignore[literal-required]


def _readable(path: Path) -> list[Result]:
    """The results at ``path``, or none; a damaged file is moved aside, never overwritten."""
    if not path.exists():
        return []
    try:
        return load_results(path)["results"]
    except ValueError as error:
        number = 0
        while (aside := path.with_name(f"{path.name}.damaged-{number}")).exists():
            number += 1
        os.replace(path, aside)
        log.warning("%s; it was moved to %s and a new one begun", error, aside)
        return []


def _commit() -> str | None:
    try:
        described = subprocess.run(
            ["git", "describe", "--always", "--abbrev=40", "--dirty", "--exclude=*"],
            capture_output=True,
            text=True,
            cwd=Path(__file__).parent,
            timeout=10,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):  # no git, or no checkout
        return None
    return described.stdout.strip()


def _versions() -> dict[str, Any]:
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
