"""Read what a report shows of a run from the files in its directory."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from callbacks.provenance import Provenance
from callbacks.report.images import FOLDER, INDEX, Evaluation, load_index
from callbacks.report.scalar_record import FILE as RECORD
from callbacks.report.scalar_record import read_record
from callbacks.results.files import RESULTS, Result, load_results

log = logging.getLogger(__name__)
CONFIG = "config.yaml"


class Curve(NamedTuple):
    """A scalar over the steps of training.

    steps: Increasing.
    values: One per step, all finite.
    left_out: Number of values that were not finite.
    """

    steps: list[int]
    values: list[float]
    left_out: int = 0


@dataclass
class Run:
    """A run; missing parts are empty.

    name: Its directory's name, or the shortest end of its path that is unique.
    results: Content of ``results.json``.
    evaluations: Evaluations with images.
    curves: Scalars of its record, by name.
    config: The text of ``config.yaml``.
    sources: What wrote the numbers, and the images.
    written: When the latest of its files was written.
    remarks: Errors of reading.
    """

    path: Path
    name: str
    results: list[Result] = field(default_factory=list)
    evaluations: list[Evaluation] = field(default_factory=list)
    curves: dict[str, Curve] = field(default_factory=dict)
    config: str = ""
    sources: dict[str, Provenance] = field(default_factory=dict)
    written: str = ""
    remarks: list[str] = field(default_factory=list)

    def image_file(self, name: str) -> Path:
        """Return the path of an image of an evaluation."""
        return self.path / FOLDER / name


def read_runs(paths: Sequence[Path]) -> list[Run]:
    """Read several runs.

    Raises:
        ValueError: If one of them is not a run's directory, or given twice.
    """
    for path in paths:
        check_run(path)
    return [read_run(path, name) for path, name in zip(paths, unique_names(paths), strict=True)]


def check_run(path: Path) -> None:
    """Raise if a path is not a run's directory.

    Raises:
        ValueError: Names what is missing and how to get it.
    """
    if not any((path / name).exists() for name in (RESULTS, INDEX, CONFIG, RECORD)):
        raise ValueError(
            f"{path} is no directory of a run: it has neither {RESULTS}, {INDEX}, {CONFIG} nor "
            f"{RECORD}; `python main.py test --config ... --run.name "
            f"{path.resolve().name}` writes the first two"
        )


def unique_names(paths: Sequence[Path]) -> list[str]:
    """Return the shortest end of each path that is unique among them.

    Raises:
        ValueError: If two paths are one directory.
    """
    all_parts = [path.resolve().parts for path in paths]
    names = []
    for path, parts in zip(paths, all_parts, strict=True):
        if all_parts.count(parts) > 1:
            raise ValueError(f"{path} is given twice; give each run once")
        length = 1
        while sum(other[-length:] == parts[-length:] for other in all_parts) > 1:
            length += 1
        names.append("/".join(parts[-length:]))
    return names


def read_run(path: Path, name: str) -> Run:
    """Read a run; a damaged file becomes a remark, and the rest is shown."""
    run = Run(path, name)
    for read in (_read_results, _read_images, _read_config, _read_curves):
        try:
            read(run)
        except (OSError, ValueError) as error:
            run.remarks.append(str(error))
            log.warning("%s: %s", name, error)
    files = [path / name for name in (RESULTS, INDEX, RECORD)]
    times = [file.stat().st_mtime for file in files if file.exists()]
    if times:
        run.written = time.strftime("%Y-%m-%d %H:%M", time.localtime(max(times)))
    return run


def _read_results(run: Run) -> None:
    path = run.path / RESULTS
    if path.exists():
        content = load_results(path)
        run.results = content["results"]
        run.sources["numbers"] = _source(content)


def _read_images(run: Run) -> None:
    index = load_index(run.path)
    if index is not None:
        run.evaluations = index["evaluations"]
        run.sources["images"] = _source(index)


def _source(content: Any) -> Provenance:
    return {
        "command": content.get("command", ""),
        "commit": content.get("commit"),
        "versions": content.get("versions", {}),
        "arithmetic": content.get("arithmetic", {}),
    }


def _read_config(run: Run) -> None:
    path = run.path / CONFIG
    if path.exists():
        run.config = path.read_text(encoding="utf-8")


def _read_curves(run: Run) -> None:
    run.curves = {tag: _curve(steps) for tag, steps in read_record(run.path).items()}


def _curve(values: dict[int, float]) -> Curve:
    steps = [step for step in sorted(values) if math.isfinite(values[step])]
    return Curve(steps, [values[step] for step in steps], len(values) - len(steps))
