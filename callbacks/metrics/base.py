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

import itertools
import logging
import math
from abc import abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NotRequired, TypedDict

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor, nn

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
from files.checksums import file_hash
from files.manifest import entry_of, locate
from files.words import first_of

log = logging.getLogger(__name__)
Measured = dict[str, Any]  # what was measured of each image: a number, or an array of features

# Kinds of measurement; the last one says whether an output is finite.
OUTPUT = "output"
BICUBIC = "bicubic"
FINITE = "finite"


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
    """Warn of the images that a metric skipped because they are too small, if there are any.

    Args:
        metric: Its name in the logs.
        dataset: The dataset's name.
        small: The window by the key of each skipped image.
        kept: Number of the other images.
    """
    if not small:
        return
    window = " or ".join(dict.fromkeys(small.values()))
    consequence = f"its number is of the other {kept}" if kept else "there is no number"
    log.warning(
        f"{metric} of {dataset}: {len(small)} of {len(small) + kept} images are smaller than "
        f"{window} and left out, so {consequence}: {first_of(small)}"
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
        self._batches: list[tuple[int, str, list[str], Tensor]] = []

    def update(self, dataset: int, kind: str, keys: list[str], values: Tensor) -> None:
        """Add a batch.

        Args:
            dataset: The index of its dataset.
            kind: ``OUTPUT``, ``BICUBIC``, ``FINITE`` or another name.
            keys: B names.
            values: (B, ...).
        """
        self._batches.append((dataset, kind, keys, values.detach()))

    def gather(self) -> None:
        """Gather those of all processes on the first; only here the host waits for the device."""
        on_host = [(index, kind, keys, values.cpu()) for index, kind, keys, values in self._batches]
        self._batches = list(itertools.chain.from_iterable(gather_on_first(on_host)))

    def by_key(self) -> dict[tuple[int, str], Measured]:
        """Return the measurements of each image by its key, for each dataset and kind."""
        measured: dict[tuple[int, str], Measured] = {}
        for dataset, kind, keys, values in self._batches:
            # By key: an image that two processes saw (padding repeats some) counts once.
            items = values.tolist() if values.ndim == 1 else values.numpy()
            measured.setdefault((dataset, kind), {}).update(zip(keys, items, strict=True))
        return measured


class Metric(EvaluationCallback):
    """Base of all metrics: when to compute, what to keep, how processes combine their numbers.

    Subclass ``ImageMetric`` or ``SetMetric``. The number is logged as ``val/<name>`` or
    ``test/<name>``, with several datasets as ``val/<dataset>/<name>``. Every image counts once,
    for any batch size, order and number of processes, which synchronise only at the end of an
    evaluation. Nothing is computed in Lightning's sanity check.

    Args:
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

    def __init__(self, label: str | None = None, control: bool = False) -> None:
        super().__init__()
        self.name = label or self.name or type(self).__name__.lower()
        self.control = control
        self.scale = 1.0  # of the current dataset, for `measure`
        self.records: list[Record] = []  # of the latest evaluation
        self.control_records: list[Record] = []  # likewise, of bicubic
        self.images: dict[str, dict[str, float]] = {}  # an ImageMetric's numbers by dataset and key
        self.control_images: dict[str, dict[str, float]] = {}  # likewise, of bicubic
        self._off = False
        self._loaded = False
        self._active = False
        self._datasets: list[Any] = []
        self._measured = Measurements()
        self._broken: set[str] = set()  # keys, on the first process, of outputs that are not finite
        self._warned: set[str] = set()  # messages that appear once in a run
        self._small: list[dict[str, str]] = []  # windows of the images that were left out, by key

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
        names = [c.name for c in all_callbacks(trainer) if isinstance(c, Metric)]
        if names.count(self.name) > 1:
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
        """Load the networks unless an earlier command of this process did."""
        if not self._loaded:
            self.load()
            self._loaded = True

    def _start(self, trainer: Trainer) -> None:
        self.records = []
        self.control_records = []
        self.images = {}
        self.control_images = {}
        self._active = not (self._off or trainer.sanity_checking)
        self._datasets = evaluated_datasets(trainer)
        self._measured = Measurements()
        self._small = [{} for _ in self._datasets]

    def _add(self, outputs: Any, batch: Batch, dataloader_idx: int) -> None:
        if not self._active or (self.needs_hr and self.target not in batch):
            return
        keys = batch["key"]
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
        finite = are_finite(sr)
        may_write = not type(self).__module__.startswith("callbacks.")
        try:
            with ieee_float32(sr.device):
                measured = self.measure(_copied(sr, may_write), _copied(hr, may_write), batch)
        except TooSmall as error:
            self._small[dataloader_idx].update(dict.fromkeys(keys, error.window))
            return
        self._measured.update(dataloader_idx, OUTPUT, keys, measured)
        self._measured.update(dataloader_idx, FINITE, keys, finite)
        if not self.control or "lr" not in batch:
            return
        if self.needs_hr and torch.equal(batch["lr"], hr):
            return  # as for a tokenizer: bicubic would be HR itself
        bicubic = resize(batch["lr"], hr.shape[-2:])
        with ieee_float32(sr.device):
            measured = self.measure(bicubic, _copied(hr, may_write), batch)
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
        """Return a number's name in the logs, such as ``val/set5/psnr``.

        Args:
            stage: Which evaluation, the latest.
            record: The number.
        """
        middle = f"{record['dataset']}/" if len(self._datasets) > 1 else ""
        return f"{stage}/{middle}{record['metric']}"

    def _summaries(self, small: list[list[dict[str, str]]]) -> tuple[list[Record], list[Record]]:
        """Return the records of the output and of bicubic, for all datasets."""
        measured = self._measured.by_key()
        records: list[Record] = []
        control_records: list[Record] = []
        for index, dataset in enumerate(self._datasets):
            too_small: dict[str, str] = {}
            for of_process in small:
                too_small |= of_process[index]
            # Sorted, so that rounding is the same on any number of processes.
            output = dict(sorted(measured.get((index, OUTPUT), {}).items()))
            bicubic = dict(sorted(measured.get((index, BICUBIC), {}).items()))
            finite = measured.get((index, FINITE), {})
            warn_of_small(self.name, dataset.name, dict(sorted(too_small.items())), len(output))
            self._broken = {key for key, value in finite.items() if not value}
            if self._are_enough(dataset, len(output), len(too_small)):
                records += self.summarise(dataset, output)
            elif not too_small:
                target = "image with HR" if self.target == "hr" else self.target
                log.warning("no %s on %s: no %s", self.name, dataset.name, target)
            self._broken = set()  # bicubic is always finite
            if self._are_enough(dataset, len(bicubic), len(too_small)):
                control_records += self.summarise(dataset, bicubic)
        return records, control_records

    def _are_enough(self, dataset: Any, count: int, small: int) -> bool:
        """Return whether there are enough images for a number.

        Args:
            dataset: Their dataset, for messages.
            count: Number of images that were measured.
            small: Number of those that were skipped because they are too small.
        """
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
        """Return which file is missing in one line; empty if all are found."""
        try:
            for name in self.files:
                locate(name)
        except FileNotFoundError as error:
            return str(error)
        return ""

    def load(self) -> None:
        """Load the networks.

        Raises:
            FileNotFoundError: If a file is missing.
        """
        paths = [locate(name) for name in self.files]
        self.build(paths)
        self.sha256 = ", ".join(map(file_hash, paths))

    def weights_protocol(self) -> MetricProtocol:
        """Return names and hashes of the files."""
        names = ", ".join(entry_of(name)["file"] for name in self.files)
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
        values: Any = self.compute(sr, hr, batch)
        if not isinstance(values, Tensor):  # a user's method may return a list, or nothing
            values = torch.tensor([] if values is None else values, dtype=torch.float64)
        count = len(batch["key"])
        if values.shape != (count,):
            raise ValueError(
                f"{type(self).__name__}.compute gave the shape {tuple(values.shape)}; "
                f"expected one value an image, ({count},)"
            )
        return nan_where_not_finite(values, sr)

    def summarise(self, dataset: Any, images: Measured) -> list[Record]:
        """Return the mean of the finite numbers; ``images`` keeps all, on the first process."""
        # The control is summarised after the output.
        of_all = self.control_images if dataset.name in self.images else self.images
        of_all[dataset.name] = images
        finite = {key: value for key, value in images.items() if math.isfinite(value)}
        left_out = len(images) - len(finite)
        # An output with a pixel that is not finite is the model's fault, so its number counts.
        if left_out and (not finite or self._broken.intersection(images)):
            finite = images
        record = self.record(dataset, sum(finite.values()) / len(finite), len(images))
        if left_out:
            record["not_finite"] = left_out
            self._warn_of_not_finite(dataset.name, images, len(finite))
        return [record]

    def _warn_of_not_finite(self, dataset: str, images: Measured, kept: int) -> None:
        """Name the images without a finite number; once in a run, unless the mean is undefined.

        Args:
            dataset: The dataset's name.
            images: The numbers of all its images.
            kept: How many of them the mean is of.
        """
        bad = [f"{key} ({value})" for key, value in images.items() if not math.isfinite(value)]
        mean_is_undefined = kept == len(images)
        mean = "and so is the mean" if mean_is_undefined else f"and the mean is of the other {kept}"
        message = (
            f"{self.name} is not finite for {len(bad)} of {len(images)} images of {dataset}, "
            f"{mean}: {first_of(bad)}"
        )
        if mean_is_undefined or message not in self._warned:
            log.warning("%s", message)
        self._warned.add(message)


def _copied(images: Tensor, may_write: bool) -> Tensor:
    """Return a copy for a metric that may write into its images, else the images themselves."""
    return images.clone() if may_write else images


def as_float64(x: Tensor) -> Tensor:
    """Return ``x``, of any shape, in float64; on the CPU if the device has no float64 (Apple's)."""
    return (x.cpu() if x.device.type == "mps" else x).to(torch.float64)
