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
    scale: The factor its pictures were enlarged by.
    metric: Name of the metric in the logs.
    protocol: How the numbers were computed.
    checkpoint: As in ``results.json``.
    seed: Of a stochastic method: the seed of its noise; else None.
    values: The number of each image, by its key.
    """

    dataset: str
    scale: float
    metric: str
    protocol: MetricProtocol
    checkpoint: str | None
    seed: int | None
    values: dict[str, float]


def numbers_of(
    metrics: Iterable[Metric], checkpoint: str | None, seed: int | None
) -> list[ImageNumbers]:
    """What an evaluation found, of the metrics that have a number for each image.

    Args:
        metrics: Those of the trainer; on the first process, which alone has the numbers.
        checkpoint: The weights that were evaluated.
        seed: Of the method's noise; None for a method without any.
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
    """``new``, and of ``old`` what it does not measure again.

    All seeds of a number are replaced together: those of another evaluation may be of other
    settings of the method, and a mean over both would be of neither.
    """
    again = {identity(numbers) for numbers in new}
    return [numbers for numbers in old if identity(numbers) not in again] + new


def load_images(run: str | Path) -> list[ImageNumbers]:
    """The numbers of single images of a run.

    Args:
        run: The run's directory.

    Raises:
        FileNotFoundError: There is no ``images.json``.
        ValueError: It is damaged, or a folder.
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
            f"{path} is damaged ({error!r}): run test (or validate) again, which writes it anew"
        ) from error
    return images


def write_images(run: Path, images: list[ImageNumbers]) -> None:
    """Write ``images.json``, an entry a line; whole or not at all.

    Args:
        run: The run's directory.
        images: All that is to be in it.
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
    """Put new numbers into a run's ``images.json``; one that is damaged is moved aside.

    To be called within ``one_writer``, or what another process adds meanwhile is lost.

    Args:
        run: The run's directory.
        new: What an evaluation found.
    """
    old: list[ImageNumbers] = []
    if (run / FILENAME).exists():
        try:
            old = load_images(run)
        except ValueError as error:
            log.warning("%s; it was moved to %s", error, set_aside(run / FILENAME))
    _tell_of_others(old, new)
    write_images(run, merge_images(old, new))


def _tell_of_others(old: list[ImageNumbers], new: list[ImageNumbers]) -> None:
    # Whoever gives the pictures of validation and those of test one name loses one of the two.
    before = {identity(numbers): numbers["values"].keys() for numbers in old}
    told: set[str] = set()
    for numbers in new:
        names, now = before.get(identity(numbers)), numbers["values"].keys()
        place = f"{numbers['dataset']} x{numbers['scale']:g}"
        if not names or names == now or place in told:
            continue
        told.add(place)
        log.warning(
            "the numbers of %s replace those of other pictures of the same dataset: of %d (%s, "
            "...) before, of %d (%s, ...) now; to keep those of validation and of test, give the "
            "two different names in data.init_args.val and data.init_args.test",
            *(place, len(names), min(names), len(now), min(now)),
        )
