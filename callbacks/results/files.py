"""The files of results: results.json, images.json."""

from __future__ import annotations

import json
import logging
import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NotRequired, TypedDict, TypeVar

import torch
from torch import Tensor
from torch.nn import functional

from callbacks.evaluation import MetricProtocol
from callbacks.metrics.base import Metric, Record
from callbacks.provenance import Provenance, provenance
from degradations.draws import GAMMA
from degradations.stages.noise import mixed, signed
from files.locks import lock, unlock
from files.method import Method
from files.owned import move_aside, refuse_link, refuse_moved, write_whole
from files.words import first_of

log = logging.getLogger(__name__)
RESULTS, IMAGES = "results.json", "images.json"
LOCK = ".results.lock"
ALIKE = 0.01  # two details of LR that differ by this share may be of one degradation
T = TypeVar("T")
Row = tuple[str, float, str | None]  # dataset, scale, checkpoint
IDENTITY = ("dataset", "scale", "metric", "protocol", "checkpoint")


class Result(Record):
    """A number, and the weights it belongs to.

    checkpoint: File or name of the weights, with the options that change their outputs; None for a
        method without any; ``bicubic`` for a metric's control.
    higher_is_better: The metric's direction; absent in files of earlier versions.
    sha256: Of the weights' file; absent without one, and in files of earlier versions.
    seeds: Noise seeds of a stochastic method; ``value`` is the mean over them.
    std: Sample deviation of the dataset's number over several seeds.
    """

    checkpoint: str | None
    higher_is_better: NotRequired[bool]
    sha256: NotRequired[str]
    seeds: NotRequired[list[int]]
    std: NotRequired[float]


class ResultsFile(Provenance):
    """The content of ``results.json``, and what wrote it last.

    results: One entry for each dataset, scale, metric, protocol and checkpoint.
    """

    results: list[Result]


def made_by(method: Method) -> str | None:
    """Return a method's weights and the settings that change its outputs, in one text."""
    parts = [f"{name} {value}" for name, value in method.output_settings.items()]
    if method.weights_source:
        parts.insert(0, method.weights_source)
    return ", ".join(parts) or None


def load_results(path: str | Path) -> ResultsFile:
    """Read a ``results.json``.

    Raises:
        ValueError: If the file is damaged, or not a file of results.
    """
    content: ResultsFile = read_json(Path(path))
    try:
        for result in content["results"]:
            _check_fields(result)
            result["value"] = float(result["value"])  # "inf" and "nan" are strings in JSON
            if "std" in result:
                result["std"] = float(result["std"])
    except (KeyError, TypeError) as error:
        raise ValueError(f"{path} is no file of results: {error!r}") from error
    return content


def _check_fields(result: Any) -> None:
    kinds = {"dataset": str, "scale": int | float, "metric": str, "n": int, "protocol": dict}
    for name, kind in kinds.items():
        if not isinstance(result[name], kind):
            raise TypeError(f"{name} is {result[name]!r}")
    identity(result)


def read_json(path: Path) -> Any:
    """Read a file of a run.

    Raises:
        FileNotFoundError: If there is none.
        ValueError: If it is damaged.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (IsADirectoryError, ValueError) as error:
        raise ValueError(
            f"{path} is damaged ({error}): remove it; the next validate or test writes a new one"
        ) from error


def write_results(path: Path, results: list[Result]) -> None:
    """Write ``results`` with command, commit and versions, atomically.

    Args:
        path: The file; its folder is created.
        results: All results of the file.
    """
    content = {"results": storable(results), **provenance()}
    write_whole(path, json.dumps(content, indent=2, allow_nan=False) + "\n")


def merge(old: list[Result], new: list[Result], gone: set[Row]) -> list[Result]:
    """Return ``old`` with numbers of ``new`` replaced in place, and the rest appended.

    Args:
        old: The numbers of the file.
        new: Those of an evaluation.
        gone: Rows whose weights or images are others now: their old numbers are left out.
    """
    by_identity = {identity(result): result for result in new}
    merged: dict[str, Result] = {}
    lost = []
    for result in old:
        if row_of(result) in gone and identity(result) not in by_identity:
            lost.append(f"{result['metric']} on {result['dataset']} x{result['scale']:g}")
        else:
            merged[identity(result)] = result
    if lost:
        log.warning(
            "of other weights or images than now, and so no longer among the results: %s",
            first_of(lost),
        )
    merged |= by_identity
    return list(merged.values())


def row_of(numbers: Any) -> Row:
    """Return the row of a number, or of numbers of single images, in a table."""
    return numbers["dataset"], numbers["scale"], numbers["checkpoint"]


def retrained(old: list[Result], new: list[Result]) -> set[Row]:
    """Return the rows of ``old`` whose file of weights is another in ``new``."""
    hashes = {row_of(result): result["sha256"] for result in new if "sha256" in result}
    retrained_rows = set()
    for result in old:
        row = row_of(result)
        if row in hashes and "sha256" in result and result["sha256"] != hashes[row]:
            retrained_rows.add(row)
    return retrained_rows


def identity(result: Any) -> str:
    """Return a key that is equal for two numbers if one replaces the other."""
    return json.dumps([result[key] for key in IDENTITY], sort_keys=True)


def columns(results: list[Result]) -> dict[str, tuple[str, MetricProtocol]]:
    """Return the columns of a table: numbers of different protocols never share one.

    Returns:
        For each metric and protocol, by ``column_of`` of its results: the heading, which is the
        metric's name, numbered if it has several protocols; and the protocol.
    """
    by_metric: dict[str, dict[str, MetricProtocol]] = {}
    for result in results:
        protocols = by_metric.setdefault(result["metric"], {})
        protocols.setdefault(column_of(result), result["protocol"])
    headings = {}
    for metric, protocols in by_metric.items():
        for number, (column, protocol) in enumerate(protocols.items(), start=1):
            heading = metric if len(protocols) == 1 else f"{metric} ({number})"
            headings[column] = (heading, protocol)
    return headings


def rows_of(results: list[Result]) -> dict[Row, dict[str, Result]]:
    """Return the rows of a table: results by column."""
    rows: dict[Row, dict[str, Result]] = {}
    for result in results:
        rows.setdefault(row_of(result), {})[column_of(result)] = result
    return rows


def counts_of(row: dict[str, Result]) -> str:
    """Return the numbers of images of a row's results; ``4 of 5`` if some have none."""
    counts = []
    for result in row.values():
        n = result["n"]
        finite = n - result.get("not_finite", 0)
        counts.append(str(n) if finite == n else f"{finite} of {n}")
    return "/".join(dict.fromkeys(counts))


def column_of(result: Any) -> str:
    """Return a key that is equal for numbers of one column."""
    return json.dumps([result["metric"], result["protocol"]], sort_keys=True)


def describe(protocol: MetricProtocol) -> str:
    """Return a protocol in one line."""
    return ", ".join(f"{key} {value}" for key, value in protocol.items())


def shown_value(result: Result | None) -> str:
    """Return the number for a table, with its deviation over seeds; ``-`` without a result."""
    if result is None:
        return "-"
    if "std" in result:
        return f"{result['value']:.4f} ± {result['std']:.4f}"
    return f"{result['value']:.4f}"


def storable(value: Any) -> Any:
    """Return numbers, also those within mappings and lists, for JSON: ``nan``, ``inf`` as text."""
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, Mapping):
        return {key: storable(v) for key, v in value.items()}
    if isinstance(value, list | tuple):
        return [storable(v) for v in value]
    return value


@contextmanager
def one_writer(run: Path) -> Iterator[None]:
    """Lock a run's files against other evaluations while they are read and written.

    Args:
        run: The run's directory; it is created.
    """
    refuse_moved(run)
    run.mkdir(parents=True, exist_ok=True)
    refuse_link(run / LOCK)
    descriptor = os.open(run / LOCK, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
    lock(descriptor)
    try:
        yield
    finally:
        unlock(descriptor)


def load_or_set_aside(path: Path, load: Callable[[], T]) -> T | None:
    """Return what ``load`` reads, if there is a file; a damaged one is renamed."""
    try:
        return load()
    except FileNotFoundError:
        return None
    except ValueError as error:
        log.warning("%s; it was moved to %s", error, move_aside(path, "damaged"))
        return None


class ImageNumbers(TypedDict):
    """A metric's number of each image of a dataset.

    dataset: Name of the source in the configuration.
    scale: The factor its images were enlarged by.
    metric: Name of the metric in the logs.
    protocol: How the numbers were computed.
    checkpoint: As in ``results.json``.
    seed: Noise seed of a stochastic method; else None.
    values: The number of each image, by its key; empty for a number of the whole set.
    digests: ``digests_of`` the HR of each image, of a clip's frames, or of LR without HR, by its
        key; then a space and the ``detail`` of its LR; one or both are absent in earlier files.
    """

    dataset: str
    scale: float
    metric: str
    protocol: MetricProtocol
    checkpoint: str | None
    seed: int | None
    values: dict[str, float]
    digests: NotRequired[dict[str, str]]


def digests_of(images: Tensor) -> Tensor:
    """Return a hash of each image's 8-bit levels, equal on all devices; nothing waits for them.

    Args:
        images: (B, ..., W) in [0, 1].

    Returns:
        (B,) int64 in [0, 2**32).
    """
    levels = (images.float() * 255).round().to(torch.uint8).flatten(1)
    missing = -levels.shape[1] % 8
    words = functional.pad(levels, (0, missing)).view(torch.int64)  # 8 levels each
    # From W on, so that images of other sides differ, too, where all levels are equal.
    width = images.shape[-1]
    places = width + torch.arange(words.shape[1], device=words.device)
    hashes = mixed(words + places * signed(GAMMA))
    return hashes.sum(1) & 0xFFFFFFFF


def detail_of(images: Tensor) -> Tensor:
    """Return what tells degradations apart: how much neighbours in a row differ on average.

    Unlike a hash, it is nearly the same where devices round differently.

    Args:
        images: (B, ..., W) in [0, 1], LR.

    Returns:
        (B,) float32 in levels of 8 bits.
    """
    steps = images.float().diff(dim=-1).abs()
    mean_step = steps.flatten(1).mean(1)
    return mean_step.nan_to_num() * 255  # NaN of images that are one pixel wide


def are_unlike(*digests: str | None) -> bool:
    """Return whether some of the digests of an image are of other HR, or of LR made otherwise."""
    parts = [digest.split() for digest in digests if digest]
    hashes = {part[0] for part in parts}
    if len(hashes) > 1:
        return True
    details = [float(part[1]) for part in parts if len(part) > 1]
    return bool(details) and max(details) - min(details) > ALIKE * max(details)


def image_numbers(
    metrics: Iterable[Metric],
    checkpoint: str | None,
    seed: int | None,
    digests: Mapping[str, Mapping[str, str]],
) -> list[ImageNumbers]:
    """Return the numbers of an evaluation; none of metrics of whole sets, but what they are of.

    Args:
        metrics: The trainer's metrics; only those of the first process have the numbers.
        checkpoint: The weights that were evaluated.
        seed: Seed of the method's noise; None for a method without any.
        digests: Of the images, by dataset and key.
    """
    numbers: list[ImageNumbers] = []
    for metric in metrics:
        for record in metric.records:
            values = metric.images.get(record["dataset"], {})
            numbers.append(_numbers(record, values, checkpoint, seed, digests))
        for record in metric.control_records:
            values = metric.control_images.get(record["dataset"], {})
            numbers.append(_numbers(record, values, "bicubic", None, digests))
    return numbers


def _numbers(
    record: Record,
    values: dict[str, float],
    checkpoint: str | None,
    seed: int | None,
    digests: Mapping[str, Mapping[str, str]],
) -> ImageNumbers:
    return {
        "dataset": record["dataset"],
        "scale": record["scale"],
        "metric": record["metric"],
        "protocol": record["protocol"],
        "checkpoint": checkpoint,
        "seed": seed,
        "values": values,
        "digests": dict(digests.get(record["dataset"], {})),
    }


def load_images(run: str | Path) -> list[ImageNumbers]:
    """Return the numbers of single images of a run.

    Args:
        run: The run's directory.

    Raises:
        FileNotFoundError: If there is no ``images.json``.
        ValueError: If it is damaged.
    """
    path = Path(run, IMAGES)
    if not path.exists():
        raise FileNotFoundError(f"there is no {path}: run test (or validate), which writes it")
    content = read_json(path)
    try:
        images: list[ImageNumbers] = content["images"]
        for numbers in images:
            identity(numbers)
            numbers["seed"] = None if numbers["seed"] is None else int(numbers["seed"])
            numbers["values"] = {key: float(value) for key, value in numbers["values"].items()}
            if "digests" in numbers:
                numbers["digests"] = dict(numbers["digests"])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{path} is damaged ({error!r}): run test (or validate) again, which writes it again"
        ) from error
    return images


def write_images(run: Path, images: list[ImageNumbers]) -> None:
    """Write ``images.json`` atomically, one entry per line.

    Args:
        run: The run's directory.
        images: All numbers of the file.
    """
    lines = [json.dumps(storable(numbers), allow_nan=False) for numbers in images]
    write_whole(run / IMAGES, '{"images": [\n' + ",\n".join(lines) + "\n]}\n")


def store(run: Path, results: list[Result], images: list[ImageNumbers]) -> None:
    """Merge an evaluation into a run's ``results.json`` and ``images.json``; damaged ones go aside.

    All seeds of a number are replaced together: another evaluation may have used other settings of
    the method, and a mean over both would be meaningless. Rows of other weights or images are
    removed first: whichever write a killed process does not reach, no row mixes two states.

    Args:
        run: The run's directory; it is created.
        results: The numbers of an evaluation.
        images: Those of single images.
    """
    path = run / RESULTS
    with one_writer(run):
        old = load_or_set_aside(path, lambda: load_results(path)["results"]) or []
        before = load_or_set_aside(run / IMAGES, lambda: load_images(run)) or []
        gone = retrained(old, results) | _of_other_images(before, images)
        if gone:
            write_results(path, [result for result in old if row_of(result) not in gone])
        replaced = {identity(numbers) for numbers in images}
        others = [n for n in before if identity(n) not in replaced and row_of(n) not in gone]
        write_images(run, others + images)
        write_results(path, merge(old, results, gone))


def _of_other_images(old: list[ImageNumbers], new: list[ImageNumbers]) -> set[Row]:
    # With one name for the images of validation and of test, the numbers of one would be lost.
    old_keys = {identity(numbers): _keys(numbers) for numbers in old}
    old_digests: dict[Row, dict[str, str]] = {}
    for numbers in old:
        old_digests.setdefault(row_of(numbers), {}).update(numbers.get("digests", {}))
    rows: dict[Row, str] = {}
    for numbers in new:
        row = row_of(numbers)
        keys = _keys(numbers)
        others = old_keys.get(identity(numbers), keys) ^ keys
        for key, digest in numbers.get("digests", {}).items():
            if are_unlike(digest, old_digests.get(row, {}).get(key)):
                others.add(key)
        if others:
            rows[row] = f"{row[0]} x{row[1]:g} ({first_of(sorted(others))})"
    for place in dict.fromkeys(rows.values()):
        log.warning(
            "the numbers of other images of the same name, or of LR of another degradation, are "
            "replaced: %s; to keep those of validation and of test, give the two different names "
            "in data.init_args.val and data.init_args.test",
            place,
        )
    return set(rows)


def _keys(numbers: ImageNumbers) -> set[str]:
    return {*(numbers["values"] or numbers.get("digests", {}))}
