"""The files of a run's rows: results.json has those of datasets, images.json those of images."""

from __future__ import annotations

import json
import logging
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from callbacks.provenance import provenance
from callbacks.results.digests import are_unlike
from callbacks.results.rows import Place, Row, of_datasets, of_images
from files.locks import lock, unlock_and_close
from files.method import Method
from files.owned import hold_place, move_aside, refuse_link, refuse_moved, write_whole
from files.words import first_of

log = logging.getLogger(__name__)
RESULTS, IMAGES = "results.json", "images.json"
LOCK = ".results.lock"
SHARED = ("dataset", "scale", "metric", "protocol", "checkpoint", "seed")  # by a line of images


def made_by(method: Method) -> str | None:
    """Return a row's ``checkpoint``: a method's weights and the settings that change its outputs.

    None if the method has neither.
    """
    parts = [f"{name} {value}" for name, value in method.output_settings.items()]
    if method.weights_source:
        parts.insert(0, method.weights_source)
    return ", ".join(parts) or None


# ----------------------------------------------------------------------------------------- reading


def read(run: Path) -> list[Row]:
    """Return the rows of a run; none if it was not measured.

    Raises:
        ValueError: If a file is damaged.
    """
    return read_file(run / RESULTS) + read_file(run / IMAGES)


def read_file(path: Path) -> list[Row]:
    """Return the rows of a ``results.json`` or ``images.json``; none without the file.

    Raises:
        ValueError: If it is damaged.
    """
    if not path.exists():
        return []
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if path.name == RESULTS:
            return [_dataset_row(entry) for entry in content["results"]]
        return [row for entry in content["images"] for row in _image_rows(entry)]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{path} is damaged ({error!r}): run test (or validate) again, which writes a new one"
        ) from error


def _dataset_row(entry: Mapping[str, Any]) -> Row:
    """Return the row of an entry of ``results.json``."""
    names = [field.name for field in fields(Row)]
    values = {name: entry[name] for name in names if name in entry}
    for name in ("value", "std"):
        if name in values:
            values[name] = float(values[name])  # "inf" and "nan" are strings in JSON
    return Row(**values)


def _image_rows(entry: Mapping[str, Any]) -> Iterator[Row]:
    """Yield the rows of an entry of ``images.json``, one for each of its images."""
    shared = {name: entry[name] for name in SHARED}
    digests = entry.get("digests", {})
    for image, value in entry["values"].items():
        yield Row(**shared, image=image, value=float(value), digest=digests.get(image))


# ----------------------------------------------------------------------------------------- writing


def append(run: Path, rows: Sequence[Row]) -> list[Row]:
    """Add the numbers of an evaluation to a run's files, and return all that they now have.

    A number replaces that of the same dataset, scale, metric, protocol and checkpoint, with all of
    its seeds: another evaluation may have used other settings of the method, and a mean over both
    would be meaningless. If weights or images are others than before, all older numbers of this
    dataset, scale and checkpoint are dropped, with a warning.

    Args:
        run: The run's directory; it is created.
        rows: All rows of an evaluation, with one number for each dataset and metric.

    Raises:
        MovedError: If the directory was moved since the evaluation began.
    """
    with _one_writer(run):
        old = _read_or_move_aside(run / RESULTS) + _read_or_move_aside(run / IMAGES)
        gone = _places_of_other_weights(old, rows) | _places_of_other_images(old, rows)
        current = [row for row in old if row.place not in gone]
        if gone:
            # First, so that a process that is killed before the end leaves no mixture.
            _write_results(run / RESULTS, of_datasets(current))
        measured = {row.number for row in rows}
        lost = [row for row in old if row.place in gone and row.number not in measured]
        if lost:
            log.warning(
                "of other weights or images than now, and so no longer among the results: %s",
                first_of(dict.fromkeys(row.title for row in lost)),
            )
        images = [row for row in of_images(current) if row.number not in measured]
        images += of_images(rows)
        by_number = {row.number: row for row in of_datasets(current)}
        by_number |= {row.number: row for row in of_datasets(rows)}
        numbers = list(by_number.values())
        _write_images(run / IMAGES, images)
        _write_results(run / RESULTS, numbers)
    return numbers + images


def _places_of_other_weights(old: Sequence[Row], new: Sequence[Row]) -> set[Place]:
    """Return dataset, scale and checkpoint of numbers whose file of weights has changed."""
    hashes = {row.place: row.sha256 for row in new if row.sha256}
    places = set()
    for row in old:
        now = hashes.get(row.place)
        if now and row.sha256 and row.sha256 != now:
            places.add(row.place)
    return places


def _places_of_other_images(old: Sequence[Row], new: Sequence[Row]) -> set[Place]:
    """Return dataset, scale and checkpoint of numbers whose images have changed; warn of these."""
    before = {_subject(row): row.digest for row in old if row.digest}
    others = [row for row in new if are_unlike(row.digest, before.get(_subject(row)))]
    if others:
        # With one name for the images of validation and of test, the numbers of one would be lost.
        log.warning(
            "the numbers of other images of the same name, or of LR of another degradation, are "
            "replaced: %s; to keep those of validation and of test, give the two different names "
            "in data.init_args.val and data.init_args.test",
            first_of(dict.fromkeys(f"{row.dataset} x{row.scale:g}" for row in others)),
        )
    return {row.place for row in others}


def _subject(row: Row) -> tuple[Place, str]:
    """Return a key of what a row's digest is of: one image, or all images of one number."""
    return row.place, row.image or row.number


def _read_or_move_aside(path: Path) -> list[Row]:
    """Return a file's rows; of a damaged file none, after it was renamed with a warning."""
    try:
        return read_file(path)
    except ValueError as error:
        log.warning("%s; it was moved to %s", error, move_aside(path, "damaged"))
        return []


@contextmanager
def _one_writer(run: Path) -> Iterator[None]:
    """Lock a run's files against other evaluations while they are read and written."""
    refuse_moved(run)
    run.mkdir(parents=True, exist_ok=True)
    hold_place(run)
    refuse_link(run / LOCK)
    descriptor = os.open(run / LOCK, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
    lock(descriptor)
    try:
        yield
    finally:
        unlock_and_close(descriptor)


def _write_results(path: Path, rows: Sequence[Row]) -> None:
    """Write ``results.json`` with command, commit and versions."""
    content = {"results": [_entry_of(row) for row in rows], **provenance()}
    write_whole(path, json.dumps(content, indent=2, allow_nan=False) + "\n")


def _entry_of(row: Row) -> dict[str, Any]:
    """Return an entry of ``results.json``: the fields of a row, without those that are None.

    ``checkpoint`` is always there: ``Row`` has no default for it.
    """
    entry = {}
    for name, value in asdict(row).items():
        if value is not None or name == "checkpoint":
            entry[name] = storable(value)
    return entry


def _write_images(path: Path, rows: Sequence[Row]) -> None:
    """Write ``images.json``: a line for each number and seed, with all of its images."""
    entries: dict[tuple[str, int | None], dict[str, Any]] = {}
    for row in rows:
        key = row.number, row.seed
        if key not in entries:
            shared = {name: getattr(row, name) for name in SHARED}
            entries[key] = {**shared, "values": {}, "digests": {}}
        entry = entries[key]
        entry["values"][row.image] = storable(row.value)
        if row.digest is not None:
            entry["digests"][row.image] = row.digest
    lines = [json.dumps(entry, allow_nan=False) for entry in entries.values()]
    write_whole(path, '{"images": [\n' + ",\n".join(lines) + "\n]}\n")


def storable(value: Any) -> Any:
    """Return numbers, also those within mappings, for JSON: ``nan`` and ``inf`` as text."""
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, Mapping):
        return {key: storable(each) for key, each in value.items()}
    return value
