"""Metric and ImageMetric: the classes to extend for a number per image.

A metric of whole sets (FID) is a `SetMetric` of callbacks/metrics/sets.py. Numbers are exact on any
number of processes. To add a metric, write one small class:

    class MeanDifference(ImageMetric):
        name = "mae"
        higher_is_better = False

        def protocol(self) -> MetricProtocol:
            return {"implementation": "mine 1", "color": "rgb"}

        def compute(self, sr: Tensor, hr: Tensor, batch: Batch) -> Tensor:
            return (sr - hr).abs().mean((1, 2, 3))
"""

from __future__ import annotations

import logging
import math
from abc import abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NotRequired, TypedDict

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor, nn

from callbacks import weights
from callbacks.evaluation import (
    EvaluationCallback,
    MetricProtocol,
    Stage,
    all_callbacks,
    are_finite,
    evaluated_datasets,
    gather_on_first,
    nan_where_not_finite,
    on_all,
    on_first,
    output_image,
)
from degradations.base import ieee_float32
from degradations.bicubic import resize
from files.batch import Batch
from files.numbers import PositiveInt
from files.words import first_of

log = logging.getLogger(__name__)
Measured = dict[str, Any]  # what was measured of each image: a number, or an array of features
OUTPUT, BICUBIC, FINITE = range(3)  # kinds of measurement; the last: whether an output is finite


class TooSmall(ValueError):  # noqa: N818  (it describes the images)
    """Raised by a metric whose window is larger than an image.

    The evaluation continues without the image, and a warning names it.

    Args:
        images: (..., H, W), of one size.
        window: The smallest possible image, such as ``11x11 pixels without the border``.
    """

    def __init__(self, images: Tensor, window: str) -> None:
        super().__init__(f"{images.shape[-1]}x{images.shape[-2]} pixels are fewer than {window}")
        self.window = window


def warn_of_small(metric: str, dataset: str, small: Mapping[str, str], kept: int) -> None:
    """Warn of the images that a metric skipped.

    Args:
        metric: Its name in the logs.
        dataset: The dataset's name.
        small: The window by the key of each skipped image.
        kept: Number of the other images.
    """
    if not small:
        return
    left = f"its number is of the other {kept}" if kept else "there is no number"
    window = " or ".join(dict.fromkeys(small.values()))
    message = "%s of %s: %d of %d images are smaller than %s and left out, so %s: %s"
    log.warning(
        message, metric, dataset, len(small), len(small) + kept, window, left, first_of(small)
    )


class Record(TypedDict):
    """One number, with everything needed to quote it.

    dataset: Name of the source in the configuration, e.g. ``set5``.
    scale: The factor its images were enlarged by.
    metric: Name of the metric in the logs.
    value: Mean over the images whose number is finite.
    n: Number of images.
    not_finite: Number of images without a finite number; absent if there are none.
    protocol: How the number was computed.
    """

    dataset: str
    scale: float
    metric: str
    value: float
    n: int
    protocol: MetricProtocol
    not_finite: NotRequired[int]


class Measurements:
    """The measurements of each image, of this process until they are gathered."""

    def __init__(self) -> None:
        self._batches: list[tuple[int, int, list[str], Tensor]] = []

    def update(self, dataset: int, kind: int, keys: list[str], values: Tensor) -> None:
        """Add a batch.

        Args:
            dataset: The index of its dataset.
            kind: ``OUTPUT``, ``BICUBIC`` or ``FINITE``.
            keys: B names.
            values: (B, ...).
        """
        self._batches.append((dataset, kind, keys, values.detach()))

    def gather(self) -> None:
        """Gather those of all processes on the first; only here the host waits for the device."""
        mine = [(which, kind, keys, values.cpu()) for which, kind, keys, values in self._batches]
        self._batches = [batch for part in gather_on_first(mine) for batch in part]

    def by_key(self) -> dict[tuple[int, int], Measured]:
        """Return the measurements of each image by its key, for each dataset and kind."""
        found: dict[tuple[int, int], Measured] = {}
        for dataset, kind, keys, values in self._batches:
            # By key: an image that two processes saw (padding repeats some) counts once.
            items = values.tolist() if values.ndim == 1 else values.numpy()
            found.setdefault((dataset, kind), {}).update(zip(keys, items, strict=True))
        return found


class Metric(EvaluationCallback):
    """Base of all metrics: when to compute, what to keep, how processes combine their numbers.

    Subclass ``ImageMetric`` or ``SetMetric``. The number is logged as ``val/<name>`` or
    ``test/<name>``, with several datasets as ``val/<dataset>/<name>``. Every image counts once,
    for any batch size, order and number of processes, which synchronise only at the end of an
    evaluation. Nothing is computed in Lightning's sanity check.

    Args:
        limit: Use only the first images of each dataset, this many; all of them by default.
        label: Name in logs and results, if one metric is used twice (say, on Y and on RGB).
        control: Also measure the bicubic enlargement of the same LR: the row ``bicubic`` of the
            results, which a method should beat.
    """

    name: str = ""  # in the logs; by default that of the class
    higher_is_better: bool = True
    needs_hr: bool = True  # False: also for datasets without HR images, where `hr` is `sr`
    needs_lr: bool = False  # True: `measure` reads `lr` of the batch
    target: str = "hr"  # key of the batch's reference; `clip` for videos
    strict_weights: bool = False  # True: missing weights are an error; an argument of metrics with
    describing = ("_std", "_real")  # suffixes of further numbers that have no direction

    def __init__(
        self,
        limit: PositiveInt | None = None,
        label: str | None = None,
        control: bool = False,
    ) -> None:
        super().__init__()
        self.name = label or self.name or type(self).__name__.lower()
        self.limit, self.control = limit, control
        self.scale = 1.0  # of the current dataset, for `measure`
        self.records: list[Record] = []  # of the latest evaluation
        self.control_records: list[Record] = []  # likewise, of bicubic
        self.images: dict[str, dict[str, float]] = {}  # an ImageMetric's numbers by dataset and key
        self.control_images: dict[str, dict[str, float]] = {}  # likewise, of bicubic
        self._off = self._loaded = self._active = False
        self._datasets: list[Any] = []
        self._wanted: list[set[str] | None] = []
        self._measured = Measurements()
        self._broken: set[str] = set()  # keys, on the first process, of outputs that are not finite
        self._warned: set[str] = set()  # messages that appear once in a run
        self._small: list[Measured] = []  # windows of the images that were left out, by key

    @abstractmethod
    def protocol(self) -> MetricProtocol:
        """Return how the number is computed: implementation, colour, border, range, weights, ..."""

    @abstractmethod
    def measure(self, sr: Tensor, hr: Tensor, batch: Batch) -> Tensor:
        """Measure each image: (B, ...), which must not depend on the rest of the batch.

        Args:
            sr: (B, 3, H, W) float32 in [0, 1], outputs; clips are (B, F, 3, H, W).
            hr: As ``sr``, the references; ``sr`` itself if there are none.
            batch: The rest of the batch: ``key``, ``seed``, ...

        Raises:
            TooSmall: If the images are below the metric's window. They are skipped with a warning.
        """

    @abstractmethod
    def summarise(self, dataset: Any, images: Measured) -> list[Record]:
        """Return the numbers of a dataset from its measurements, by key and sorted."""

    def is_higher_better(self, name: str) -> bool | None:
        """Return the direction of one of its numbers; None if it has none.

        Args:
            name: The metric's own name, or that of a further number, e.g. ``kid_std``.
        """
        plain = name == self.name or not name.endswith(self.describing)
        return self.higher_is_better if plain else None

    def absent(self) -> str:
        """Return in one line why the metric cannot be computed; empty if it can.

        Called at start-up. Metrics with weights name the missing file; they are then off, or stop
        the run if ``strict_weights`` is set.
        """
        return ""

    def load(self) -> None:
        """Load the metric's networks; called once, at start-up, unless something is absent."""

    # ------------------------------------------------------------------------- Lightning's hooks

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Load the metric's networks and move them to the device.

        Raises:
            ValueError: If another metric has the same name.
            FileNotFoundError: If weights are missing, and ``strict_weights`` is set.
        """
        metrics = [c for c in all_callbacks(trainer) if isinstance(c, Metric)]
        if any(other is not self and other.name == self.name for other in metrics):
            raise ValueError(
                f"two metrics in trainer.callbacks are named {self.name!r}; "
                "give one of them another name by its `label`"
            )
        if stage == "predict":  # nothing is measured there
            return
        # If one machine lacks a file, the others must not wait for it at the end.
        reasons = [reason for reason in on_all(self.absent) if reason]
        self._off = bool(reasons)
        if reasons and self.strict_weights:
            raise FileNotFoundError(f"{self.name} (strict_weights is set): {reasons[0]}")
        if reasons:
            if trainer.is_global_zero:
                log.warning("%s is off, no number will appear: %s", self.name, reasons[0])
            return
        on_all(self._load_once)
        for value in vars(self).values():
            if isinstance(value, nn.Module):
                value.to(trainer.strategy.root_device)

    # ---------------------------------------------------------------------------------- the work

    def _load_once(self) -> None:
        if not self._loaded:
            self.load()
            self._loaded = True

    def _start(self, trainer: Trainer) -> None:
        self.records, self.control_records = [], []
        self.images, self.control_images = {}, {}
        self._active = not (self._off or trainer.sanity_checking)
        self._datasets = evaluated_datasets(trainer)
        self._wanted = [
            None if self.limit is None else set(dataset.keys[: self.limit])
            for dataset in self._datasets
        ]
        self._measured = Measurements()
        self._small = [{} for _ in self._datasets]

    def _add(self, outputs: Any, batch: Batch, dataloader_idx: int) -> None:
        if not self._active or (self.needs_hr and self.target not in batch):
            return
        keys, wanted = batch["key"], self._wanted[dataloader_idx]
        if wanted is not None and wanted.isdisjoint(keys):
            return
        dataset = self._datasets[dataloader_idx]
        sr = output_image(outputs).float()
        hr: Tensor = batch.get(self.target, sr)  # type: ignore[assignment]  # a key of a variable
        if sr.shape != hr.shape:
            raise ValueError(
                f"{self.name} of {', '.join(keys)}: the output is {tuple(sr.shape)}, the HR "
                f"image {tuple(hr.shape)}; expected equal sizes. Does data.init_args.scale (here "
                f"{dataset.scale:g}) fit the images of {dataset.name!r} and the model?"
            )
        self.scale = float(dataset.scale)
        # All metrics are given the same images, and a user's metric may write into them.
        own = type(self).__module__.startswith("callbacks.")
        given = (sr, hr) if own else (sr.clone(), hr.clone())
        try:
            with ieee_float32(sr.device):
                self._measured.update(dataloader_idx, OUTPUT, keys, self.measure(*given, batch))
        except TooSmall as error:
            self._small[dataloader_idx].update(dict.fromkeys(keys, error.window))
            return
        self._measured.update(dataloader_idx, FINITE, keys, are_finite(sr))
        if not self.control or "lr" not in batch:
            return
        # If LR is HR, as for a tokenizer, bicubic is no control.
        same = batch["lr"].shape == hr.shape and torch.equal(batch["lr"], hr)
        if not (self.needs_hr and same):
            bicubic = resize(batch["lr"], hr.shape[-2:])
            with ieee_float32(sr.device):
                measured = self.measure(bicubic, hr if own else hr.clone(), batch)
            self._measured.update(dataloader_idx, BICUBIC, keys, measured)

    def _finish(self, trainer: Trainer, pl_module: LightningModule, stage: Stage) -> None:
        if not self._active:
            return
        self._measured.gather()
        small = gather_on_first(self._small)
        self.records, self.control_records = on_first(lambda: self._summaries(small))
        self._measured, self._small = Measurements(), []
        for record in self.records:
            pl_module.log(
                self.tag(stage, record),
                record["value"],
                add_dataloader_idx=False,
                batch_size=1,
                sync_dist=False,  # all processes have the same number by now
            )

    def tag(self, stage: Stage, record: Record) -> str:
        """Return the name of a number of the latest evaluation in the logs."""
        middle = f"{record['dataset']}/" if len(self._datasets) > 1 else ""
        return f"{stage}/{middle}{record['metric']}"

    def _summaries(self, small: list[list[Measured]]) -> tuple[list[Record], ...]:
        """Return the records of the output and of bicubic, for all datasets."""
        measured = self._measured.by_key()
        records: tuple[list[Record], ...] = ([], [])
        for index, (dataset, wanted) in enumerate(zip(self._datasets, self._wanted, strict=True)):
            output, control, finite = (
                _wanted(measured.get((index, kind), {}), wanted)
                for kind in (OUTPUT, BICUBIC, FINITE)
            )
            left_out = _wanted({k: v for part in small for k, v in part[index].items()}, wanted)
            self._broken = {key for key, value in finite.items() if not value}
            warn_of_small(self.name, dataset.name, left_out, len(output))
            for images, found in zip((output, control), records, strict=True):
                if images is control:
                    self._broken = set()  # bicubic is always finite
                if self._are_enough(dataset, len(images), len(left_out)):
                    found += self.summarise(dataset, images)
                elif images is output and not left_out:
                    what = "image with HR" if self.target == "hr" else self.target
                    log.warning("no %s on %s: no %s", self.name, dataset.name, what)
        return records

    def _are_enough(self, dataset: Any, count: int, small: int) -> bool:
        """Return whether there are enough images for a number, not counting those too small."""
        return count > 0

    def record(self, dataset: Any, value: float, n: int, name: str | None = None) -> Record:
        """Return one number of ``n`` images of a dataset, with the protocol."""
        protocol = dict(self.protocol())
        if n < len(dataset.keys):
            protocol["images"] = n  # so that it does not replace a number of the whole dataset
        return {
            "dataset": dataset.name,
            "scale": float(dataset.scale),
            "metric": name or self.name,
            "value": value,
            "n": n,
            "protocol": protocol,
        }


class WeightsMetric(Metric):
    """A metric whose networks come from files named in ``configs/weights.yaml``.

    Args:
        strict_weights: Stop the run if a file is missing; otherwise the metric is off.
    """

    files: tuple[str, ...]  # their names

    def __init__(self, strict_weights: bool = False, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.strict_weights = strict_weights
        self.sha256: str | None = None  # of the files, once loaded

    @abstractmethod
    def build(self, paths: list[Path]) -> None:
        """Build the networks from the files."""

    def absent(self) -> str:
        """Name the missing files in one line; empty if all are found."""
        return "; ".join(weights.missing(name) for name in self.files if not weights.obtain(name))

    def load(self) -> None:
        """Load the networks.

        Raises:
            FileNotFoundError: If a file is missing.
        """
        paths = [weights.require(name) for name in self.files]
        self.build(paths)
        self.sha256 = ", ".join(map(weights.digest_of, paths))

    def weights_protocol(self) -> MetricProtocol:
        """Return names and hashes of the files."""
        names = ", ".join(weights.entry_of(name)["file"] for name in self.files)
        return {"weights": names, "sha256": self.sha256}


class ImageMetric(Metric):
    """A number for each image, its mean logged as ``val/<name>`` or ``test/<name>``."""

    @abstractmethod
    def compute(self, sr: Tensor, hr: Tensor, batch: Batch) -> Tensor:
        """Return the number of each image.

        Args:
            sr: (B, 3, H, W) float32 in [0, 1], the output.
            hr: (B, 3, H, W) float32 in [0, 1], the reference.
            batch: The rest of the batch; ``self.scale`` is the scale of its dataset.

        Returns:
            (B,) values, each of which must not depend on the rest of the batch.

        Raises:
            TooSmall: If the images are below the metric's window. They are skipped with a warning.
        """

    def measure(self, sr: Tensor, hr: Tensor, batch: Batch) -> Tensor:
        """Return (B,) numbers; NaN for an output with any pixel that is not finite.

        Raises:
            ValueError: ``compute`` returned another shape.
        """
        values = self.compute(sr, hr, batch)
        if values.shape != (count := len(batch["key"]),):
            raise ValueError(
                f"{type(self).__name__}.compute gave the shape {tuple(values.shape)}; "
                f"expected one value an image, ({count},)"
            )
        return nan_where_not_finite(values, sr)

    def summarise(self, dataset: Any, images: Measured) -> list[Record]:
        """Return the mean of the finite numbers; ``images`` keeps all, on the first process."""
        # The control is summarised after the output.
        kept = self.control_images if dataset.name in self.images else self.images
        kept[dataset.name] = images
        finite = {key: value for key, value in images.items() if math.isfinite(value)}
        left_out = len(images) - len(finite)
        # An output with a pixel that is not finite is the model's fault, so its number counts.
        if left_out and (not finite or self._broken.intersection(images)):
            finite = images
        record = self.record(dataset, sum(finite.values()) / len(finite), len(images))
        if left_out:
            record["not_finite"] = left_out
            self._name_not_finite(dataset.name, images, len(finite))
        return [record]

    def _name_not_finite(self, dataset: str, images: Measured, kept: int) -> None:
        bad = [f"{key} ({value})" for key, value in images.items() if not math.isfinite(value)]
        whole = kept == len(images)
        mean = "and so is the mean" if whole else f"and the mean is of the other {kept}"
        message = (
            f"{self.name} is not finite for {len(bad)} of {len(images)} images of {dataset}, "
            f"{mean}: {first_of(bad)}"
        )
        if whole or message not in self._warned:  # an undefined mean is reported each time
            log.warning("%s", message)
        self._warned.add(message)


def as_float64(x: Tensor) -> Tensor:
    """Return ``x``, of any shape, in float64; on the CPU if the device has no float64 (Apple's)."""
    return (x.cpu() if x.device.type == "mps" else x).to(torch.float64)


def _wanted(images: Measured, wanted: set[str] | None) -> Measured:
    """Return the wanted images, sorted, so that rounding is the same on any number of processes."""
    return {k: images[k] for k in sorted(images) if wanted is None or k in wanted}
