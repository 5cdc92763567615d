"""``results.json``: the numbers of a run, each with its protocol and its weights."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NotRequired

from filelock import FileLock, Timeout

from callbacks.base import Record
from callbacks.provenance import Provenance, provenance
from callbacks.tensorboard import MetricProtocol
from files.owned import move_aside, write_whole

log = logging.getLogger(__name__)

LOCK = ".results.lock"
PATIENCE = 60.0  # seconds to wait for other writers, which take far less than one
_UNLOCKED: set[Path] = set()  # runs that could not be locked
IDENTITY = ("dataset", "scale", "metric", "protocol", "checkpoint")


class Result(Record):
    """A number, and the weights it belongs to.

    checkpoint: File or name of the weights, with the options that change their outputs; None for a
        method without any; ``bicubic`` for a metric's control.
    higher_is_better: The metric's direction; absent in files of earlier versions.
    seeds: Noise seeds of a stochastic method; ``value`` is the mean over them.
    std: Sample deviation of the dataset's number over several seeds.
    """

    checkpoint: str | None
    higher_is_better: NotRequired[bool]
    seeds: NotRequired[list[int]]
    std: NotRequired[float]


class ResultsFile(Provenance):
    """The content of ``results.json``, and what wrote it last.

    results: One entry for each dataset, scale, metric, protocol and checkpoint.
    """

    results: list[Result]


def made_by(model: Any) -> str | None:
    """Return a model's weights and the options that change its outputs, in one text.

    Args:
        model: A LightningModule; ours have ``weights_source`` and ``options``.
    """
    options: dict[str, Any] = getattr(model, "options", {})
    parts = [getattr(model, "weights_source", None), *(f"{k} {v}" for k, v in options.items())]
    return ", ".join(part for part in parts if part) or None


def load_results(path: str | Path) -> ResultsFile:
    """Read a ``results.json``.

    Raises:
        ValueError: If the file is damaged, not a file of results, or a folder.
    """
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
        for result in content["results"]:
            result["value"] = float(result["value"])  # "inf" and "nan" are strings in JSON
            if "std" in result:
                result["std"] = float(result["std"])
            _check_fields(result)
    except (ValueError, KeyError, TypeError, IsADirectoryError) as error:
        raise ValueError(f"{path} is no file of results, or damaged: {error!r}") from error
    return content


def _check_fields(result: Any) -> None:
    kinds = {"dataset": str, "scale": int | float, "metric": str, "n": int, "protocol": dict}
    wrong = [name for name, kind in kinds.items() if not isinstance(result[name], kind)]
    if wrong:
        raise TypeError(", ".join(f"{name} is {result[name]!r}" for name in wrong))
    identity(result)


def write_results(path: Path, results: list[Result]) -> None:
    """Write ``results`` with command, commit and versions, atomically.

    Args:
        path: The file; its folder is created.
        results: All results of the file.
    """
    content = {"results": [_storable(result) for result in results], **provenance()}
    write_whole(path, json.dumps(content, indent=2, allow_nan=False) + "\n")


def merge(old: list[Result], new: list[Result]) -> list[Result]:
    """Return ``old`` with numbers of ``new`` replaced in place, and the rest appended."""
    merged = {identity(result): result for result in old}
    merged.update((identity(result), result) for result in new)
    return list(merged.values())


def identity(result: Any) -> str:
    """Return a key that is equal for two numbers if one replaces the other."""
    return json.dumps([result[key] for key in IDENTITY], sort_keys=True)


def columns(results: list[Result]) -> dict[str, tuple[str, MetricProtocol]]:
    """Return the columns of a table: numbers of different protocols never share one.

    Returns:
        For each metric and protocol, by ``column_of`` of its results: the heading, which is the
        metric's name, numbered if it has several protocols; and the protocol.
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


def rows_of(results: list[Result]) -> dict[tuple[str, float, str | None], dict[str, Result]]:
    """Return the rows of a table by dataset, scale and checkpoint: results by column."""
    rows: dict[tuple[str, float, str | None], dict[str, Result]] = {}
    for r in results:
        row = rows.setdefault((r["dataset"], r["scale"], r["checkpoint"]), {})
        row[column_of(r)] = r
    return rows


def counts_of(row: dict[str, Result]) -> str:
    """Return the numbers of images of a row's results, each count once."""
    return "/".join(dict.fromkeys(count_of(result) for result in row.values()))


def count_of(result: Result) -> str:
    """Return the number of images of a result; ``4 of 5`` if some have no finite number."""
    left_out = result.get("not_finite", 0)
    return f"{result['n'] - left_out} of {result['n']}" if left_out else str(result["n"])


def column_of(result: Any) -> str:
    """Return a key that is equal for numbers of one column."""
    return json.dumps([result["metric"], result["protocol"]], sort_keys=True)


def describe(protocol: MetricProtocol) -> str:
    """Return a protocol in one line."""
    return ", ".join(f"{key} {value}" for key, value in protocol.items())


def shown_value(result: Result) -> str:
    """Return the number for a table, with its deviation over seeds."""
    deviation = f" ± {result['std']:.4f}" if "std" in result else ""
    return f"{result['value']:.4f}{deviation}"


def storable(value: float) -> float | str:
    """Return a number for JSON: ``nan`` and ``inf`` as strings."""
    return value if math.isfinite(value) else str(value)


@contextmanager
def one_writer(run: Path) -> Iterator[None]:
    """Lock a run's files against other evaluations while they are read and written.

    If that fails, they are written nevertheless, after one warning.

    Args:
        run: The run's directory; it is created.
    """
    with ExitStack() as held:
        try:
            run.mkdir(parents=True, exist_ok=True)
            if run not in _UNLOCKED:
                held.enter_context(FileLock(run / LOCK, timeout=PATIENCE))
        except (Timeout, OSError, NotImplementedError) as error:  # not every file system has locks
            _UNLOCKED.add(run)
            log.warning(
                "%s cannot be locked (%s): evaluations that end at the same moment may overwrite "
                "each other's numbers",
                *(run / LOCK, error),
            )
        yield


def set_aside(path: Path) -> Path:
    """Rename a damaged file, or a folder in its place, and return its new path."""
    return move_aside(path, "damaged")


def _storable(result: Result) -> dict[str, Any]:
    changed: dict[str, Any] = {"value": storable(result["value"])}
    if "std" in result:
        changed["std"] = storable(result["std"])
    return {**result, **changed}
