"""``images.json``: the numbers of single images, which paired comparisons need."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable
from pathlib import Path
from typing import TypedDict

from callbacks.base import ImageMetric, Metric
from callbacks.results_file import identity, set_aside, storable
from callbacks.tensorboard import MetricProtocol
from files.owned import write_whole

log = logging.getLogger(__name__)

FILENAME = "images.json"


class ImageNumbers(TypedDict):
    """A metric's number of each image of a dataset.

    dataset: Name of the source in the configuration.
    scale: The factor its images were enlarged by.
    metric: Name of the metric in the logs.
    protocol: How the numbers were computed.
    checkpoint: As in ``results.json``.
    seed: Noise seed of a stochastic method; else None.
    values: The number of each image, by its key.
    """

    dataset: str
    scale: float
    metric: str
    protocol: MetricProtocol
    checkpoint: str | None
    seed: int | None
    values: dict[str, float]


def image_numbers(
    metrics: Iterable[Metric], checkpoint: str | None, seed: int | None
) -> list[ImageNumbers]:
    """Return the numbers of an evaluation, for metrics with a number for each image.

    Args:
        metrics: The trainer's metrics; only those of the first process have the numbers.
        checkpoint: The weights that were evaluated.
        seed: Seed of the method's noise; None for a method without any.
    """
    found: list[ImageNumbers] = []
    for metric in metrics:
        if not isinstance(metric, ImageMetric):
            continue
        kinds = (
            (metric.records, metric.images, checkpoint, seed),
            (metric.control_records, metric.control_images, "bicubic", None),
        )
        for records, images, weights, drawn in kinds:
            found += [
                {
                    "dataset": record["dataset"],
                    "scale": record["scale"],
                    "metric": record["metric"],
                    "protocol": record["protocol"],
                    "checkpoint": weights,
                    "seed": drawn,
                    "values": images[record["dataset"]],
                }
                for record in records
                if record["dataset"] in images
            ]
    return found


def merge_images(old: list[ImageNumbers], new: list[ImageNumbers]) -> list[ImageNumbers]:
    """Return ``new``, and the numbers of ``old`` that it does not replace.

    All seeds of a number are replaced together: another evaluation may have used other settings of
    the method, and a mean over both would be meaningless.
    """
    again = {identity(numbers) for numbers in new}
    return [numbers for numbers in old if identity(numbers) not in again] + new


def load_images(run: str | Path) -> list[ImageNumbers]:
    """Return the numbers of single images of a run.

    Args:
        run: The run's directory.

    Raises:
        FileNotFoundError: If there is no ``images.json``.
        ValueError: If it is damaged, or a folder.
    """
    path = Path(run, FILENAME)
    if not path.exists():
        raise FileNotFoundError(
            f"there is no {path}: run test (or validate) again with this version, which writes it"
        )
    try:
        images: list[ImageNumbers] = json.loads(path.read_text(encoding="utf-8"))["images"]
        for numbers in images:
            identity(numbers)
            numbers["seed"] = None if numbers["seed"] is None else int(numbers["seed"])
            numbers["values"] = {key: float(v) for key, v in numbers["values"].items()}
    except (ValueError, KeyError, TypeError, AttributeError, IsADirectoryError) as error:
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
    lines = [
        json.dumps(
            {**numbers, "values": {key: storable(v) for key, v in numbers["values"].items()}},
            allow_nan=False,
        )
        for numbers in images
    ]
    write_whole(run / FILENAME, '{"images": [\n' + ",\n".join(lines) + "\n]}\n")


def update_images(run: Path, new: list[ImageNumbers]) -> None:
    """Merge new numbers into a run's ``images.json``; a damaged one is moved aside.

    Call it within ``one_writer``, or numbers that another process adds meanwhile are lost.

    Args:
        run: The run's directory.
        new: The numbers of an evaluation.
    """
    old: list[ImageNumbers] = []
    if (run / FILENAME).exists():
        try:
            old = load_images(run)
        except ValueError as error:
            log.warning("%s; it was moved to %s", error, set_aside(run / FILENAME))
    _warn_of_other_images(old, new)
    write_images(run, merge_images(old, new))


def _warn_of_other_images(old: list[ImageNumbers], new: list[ImageNumbers]) -> None:
    # With one name for the images of validation and of test, the numbers of one would be lost.
    before = {identity(numbers): numbers["values"].keys() for numbers in old}
    warned: set[str] = set()
    for numbers in new:
        names, now = before.get(identity(numbers)), numbers["values"].keys()
        place = f"{numbers['dataset']} x{numbers['scale']:g}"
        if not names or names == now or place in warned:
            continue
        warned.add(place)
        log.warning(
            "the numbers of %s replace those of other images of the same dataset: of %d (%s, "
            "...) before, of %d (%s, ...) now; to keep those of validation and of test, give the "
            "two different names in data.init_args.val and data.init_args.test",
            *(place, len(names), min(names), len(now), min(now)),
        )
