"""Any metric of torchmetrics, named by its class path, as a metric of this framework."""

from __future__ import annotations

import copy
import inspect
import logging
import math
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import torch
import torchmetrics
import xxhash
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor, nn

from callbacks import weights
from callbacks.evaluation import Stage, are_finite, gather, sync_states
from callbacks.metrics.base import ImageMetric, Measured, Record, TooSmall
from callbacks.metrics.pixels import to_pixels
from callbacks.tensorboard import MetricProtocol
from degradations.base import ieee_float32

if TYPE_CHECKING:
    from files.batch import Batch

log = logging.getLogger(__name__)
SEED = 2020  # for metrics that draw subsets when they compute, such as KID
RANGES = {
    "unit": "float32 in [0, 1]",
    "signed": "float32 in [-1, 1]",
    "uint8": "uint8 in [0, 255]",
}


class Accumulated(NamedTuple):
    """A metric of a set, and the keys of the images that its states hold."""

    metric: torchmetrics.Metric
    keys: set[str]


class TorchMetric(ImageMetric):
    """A metric of torchmetrics, or of your own on its base class, by class path.

    With ``per: image`` the metric is reset, updated and computed for each image; the numbers are
    stored by image, and their mean is logged, as in papers (torchmetrics itself often pools over
    all pixels instead). With ``per: set`` the states accumulate over all images, and one
    number is computed at the end; torchmetrics reduces the states over the processes. A pair, such
    as KID's, is logged as ``<name>`` and ``<name>_std``, a dictionary as ``<name>_<key>``.

    Args:
        metric: The class: ``{class_path: torchmetrics.image.PeakSignalNoiseRatio, init_args:
            {data_range: 1.0}}``. In Python, a class or a ``functools.partial`` of one. Its
            arguments are part of the protocol.
        per: ``image``, or ``set`` for a distance of two sets such as FID.
        inputs: What ``update`` takes, in order: ``sr`` (the output), ``hr``, ``lr``. If ``update``
            has an argument ``real`` (FID, KID), it is called for the first with ``real=False`` and
            for the second with ``real=True``.
        pixels: What the metric expects: ``unit`` (float in [0, 1]), ``signed`` (float in [-1, 1]),
            or ``uint8`` (rounded to 0 ... 255).
        color: ``rgb``, or ``y`` for the luma of BT.601, as one channel.
        round_8bit: Clamp and round images to 8 bit first, as numbers from saved PNG files are.
        smallest: Side in pixels that the metric needs. Smaller images are skipped with a warning.
        higher_is_better: The direction; by default the class's own. Required if it has none.
        every_n: In ``fit``, compute at the first validation and at every n-th after it.
        limit: Use only the first images of each dataset, this many; all of them by default.
        label: Name in logs and results; by default the class name, as in
            ``peak_signal_noise_ratio``.
        control: Also measure the bicubic enlargement of the same LR: the row ``bicubic`` of the
            results.

    Raises:
        ValueError: If a value is out of range, or the direction is missing.
        TypeError: If ``metric`` is not a class of torchmetrics.
    """

    name = "torchmetric"

    def __init__(
        self,
        metric: Callable[[], torchmetrics.Metric],
        per: Literal["image", "set"] = "image",
        inputs: tuple[Literal["sr", "hr", "lr"], ...] = ("sr", "hr"),
        pixels: Literal["unit", "signed", "uint8"] = "unit",
        color: Literal["rgb", "y"] = "rgb",
        round_8bit: bool = True,
        smallest: int = 1,
        higher_is_better: bool | None = None,
        every_n: int = 1,
        limit: int | None = None,
        label: str | None = None,
        control: bool = False,
    ) -> None:
        self.kind, self.arguments = _class_of(metric)
        super().__init__(every_n, limit, label or _snake_case(self.kind.__name__), control)
        self.per, self.inputs, self.pixels = per, tuple(inputs), pixels
        self.color, self.round_8bit, self.smallest = color, round_8bit, smallest
        self.takes_real = "real" in inspect.signature(self.kind.update).parameters
        self._check()
        direction = self.kind.higher_is_better if higher_is_better is None else higher_is_better
        if direction is None:
            raise ValueError(
                f"{self.kind.__name__} does not declare whether higher is better: set "
                "`higher_is_better` of TorchMetric in trainer.callbacks"
            )
        self.higher_is_better = direction
        self.needs_hr = "hr" in self.inputs
        self.metric: torchmetrics.Metric | None = None
        self._sets: list[list[Accumulated]] = []  # for each dataset: output, bicubic
        self._current: Accumulated | None = None  # where `compute` adds to, with `per: set`
        self._dataset = 0

    def load(self) -> None:
        """Construct the metric, without downloads and without global random numbers.

        Raises:
            FileNotFoundError: If its weights are missing; nothing is computed with random ones.
            TypeError: If the class does not pass its arguments to ``torchmetrics.Metric``, or holds
                other metrics.
        """
        with self._enclosed():
            # No collective operation within a step: states are reduced once, at the end.
            metric = self.kind(**self.arguments | {"sync_on_compute": False})
        if sum(isinstance(part, torchmetrics.Metric) for part in metric.modules()) > 1:
            raise TypeError(
                f"{self.kind.__name__} wraps other metrics, whose states TorchMetric cannot "
                "reduce: name the inner class in `metric`"
            )
        self.metric = metric.eval()

    def protocol(self) -> MetricProtocol:
        """Return class and version, arguments, inputs, colour, rounding and range."""
        bound = inspect.signature(self.kind).bind(**self.arguments)
        bound.apply_defaults()
        own = {k: v for k, v in bound.arguments.items() if k not in ("args", "kwargs")}
        kind = f"{self.kind.__module__}.{self.kind.__qualname__}"
        return {name: _plain(value) for name, value in own.items()} | {
            "implementation": f"torchmetrics {torchmetrics.__version__}, {kind}",
            "per": self.per,
            "inputs": ", ".join(self.inputs),
            "color": self.color,
            "round_8bit": self.round_8bit,
            "pixels": RANGES[self.pixels],
        }

    def compute(self, sr: Tensor, hr: Tensor, batch: Batch) -> Tensor:
        """Return (B,) numbers; with ``per: set`` zeros, because the states hold the measurements.

        Raises:
            RuntimeError: If the metric is not loaded yet.
            TooSmall: If the images are below ``smallest``.
            ValueError: If the metric refuses an image, or gives several numbers for it.
        """
        metric, current = self.metric, self._current
        if metric is None:
            raise RuntimeError("TorchMetric has no metric before `load` was called")
        if min(sr.shape[-2:]) < self.smallest:
            raise TooSmall(sr, f"{self.smallest}x{self.smallest} pixels")
        values = [math.nan] * len(sr)
        images = {"sr": sr, "hr": hr, "lr": batch.get("lr")}
        given = [self._prepared(images[name]) for name in self.inputs]
        finite, device = are_finite(sr).tolist(), sr.device
        with (
            torch.no_grad(),
            torch.autocast(device.type, enabled=False),
            ieee_float32(device),
            self._enclosed(),
        ):
            for i, key in enumerate(batch["key"]):
                if not finite[i]:
                    continue
                one = [x[i : i + 1] for x in given]
                try:
                    values[i] = self._alone(metric, one) if current is None else 0.0
                    if current is not None:
                        self._accumulate(current, key, one)
                except (ValueError, RuntimeError) as error:
                    (height, width), said = sr.shape[-2:], str(error).rstrip(".")
                    raise ValueError(
                        f"{self.name} of {key}, {width}x{height} pixels: {said}. Check `pixels`, "
                        "`inputs` and `metric` of TorchMetric in trainer.callbacks; `smallest` "
                        "leaves out images that are too small for the metric"
                    ) from error
        return torch.tensor(values, dtype=torch.float64)

    def measure_control(self, sr: Tensor, hr: Tensor, batch: Batch) -> Tensor:
        """Measure bicubic likewise, with separate states."""
        if self._current:
            self._current = self._sets[self._dataset][1]
        return super().measure_control(sr, hr, batch)

    def summarise(self, dataset: Any, images: Measured) -> list[Record]:
        """Return the mean over the images, or the numbers of the set."""
        if self.per == "image":
            return super().summarise(dataset, images)
        index = next(i for i, known in enumerate(self._datasets) if known is dataset)
        metric = self._sets[index].pop(0).metric  # first the output, then bicubic
        bad = [key for key, value in images.items() if not math.isfinite(value)]
        if bad:
            return [self.undefined(dataset, bad, len(images))]
        with torch.no_grad(), self._enclosed():
            try:
                numbers = self._numbers(metric.compute())
            except (ValueError, RuntimeError) as error:
                said = str(error).rstrip(".")
                raise ValueError(
                    f"{self.name} of {dataset.name}, {len(images)} images: {said}. Check `metric` "
                    "of TorchMetric in trainer.callbacks"
                ) from error
        return [self.record(dataset, value, len(images), name) for name, value in numbers.items()]

    # ---------------------------------------------------------------------------------- the work

    def _start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        super()._start(trainer, pl_module)
        self._sets = []
        if self._active and self.per == "set" and self.metric is not None:
            self._sets = [
                [Accumulated(_copied(self.metric), set()) for _ in ("output", "bicubic")]
                for _ in self._datasets
            ]

    def _add(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Batch,
        dataloader_idx: int,
    ) -> None:
        if not self._active or not set(self.inputs) <= {"sr", *batch}:
            return
        self._dataset = dataloader_idx
        self._current = self._sets[dataloader_idx][0] if self._sets else None
        super()._add(trainer, pl_module, outputs, batch, dataloader_idx)
        self._current = None

    def _finish(self, trainer: Trainer, pl_module: LightningModule, stage: Stage) -> None:
        for dataset, accumulated in zip(self._datasets, self._sets, strict=False):
            for metric, keys in accumulated:
                self._check_shares(dataset.name, gather(sorted(keys)))
                sync_states(metric)
        super()._finish(trainer, pl_module, stage)
        self._sets = []

    def _check_shares(self, dataset: str, everyones: list[list[str]]) -> None:
        """Refuse an image that two processes saw: it cannot be subtracted from a sum."""
        seen: set[str] = set()
        for keys in everyones:
            if twice := seen.intersection(keys):
                raise ValueError(
                    f"{self.name} of {dataset}: {min(twice)} and {len(twice) - 1} other images "
                    "were given to two processes, so a metric of the set would count them twice; "
                    "use datamodules.SRDataModule, whose sampler never repeats an image, or "
                    "evaluate with trainer.devices 1"
                )
            seen.update(keys)

    def _alone(self, metric: torchmetrics.Metric, images: list[Tensor]) -> float:
        """Return the number of one image."""
        metric.reset()
        self._update(metric, images)
        numbers = self._numbers(metric.compute())
        if len(numbers) != 1:
            raise ValueError(f"it gave {len(numbers)} numbers for one image; set `per: set`")
        return next(iter(numbers.values()))

    def _accumulate(self, current: Accumulated, key: str, images: list[Tensor]) -> None:
        """Add one image to the states, once."""
        wanted = self._wanted[self._dataset]
        if key not in current.keys and (wanted is None or key in wanted):
            current.keys.add(key)
            before = _outside_states(current.metric)
            self._update(current.metric, images)
            after = _outside_states(current.metric)
            if hidden := [name for name in after if after[name] is not before.get(name)]:
                raise ValueError(
                    f"it keeps {', '.join(hidden)} outside its states, so processes cannot "
                    "combine it: set `per: image`"
                )

    def _update(self, metric: torchmetrics.Metric, images: list[Tensor]) -> None:
        if not self.takes_real:
            metric.update(*images)
            return
        for image, real in zip(images, (False, True), strict=True):
            metric.update(image, real=real)

    def _numbers(self, value: Any) -> dict[str, float]:
        named = {self.name: value}
        if isinstance(value, Mapping):
            named = {f"{self.name}_{key}": number for key, number in value.items()}
        elif isinstance(value, tuple | list) and len(value) == 2:
            named = {self.name: value[0], f"{self.name}_std": value[1]}
        for name, number in named.items():
            if not isinstance(number, int | float) and getattr(number, "numel", int)() != 1:
                shape = tuple(getattr(number, "shape", ())) or type(number).__name__
                raise ValueError(f"{name} is {shape}; expected one number")
        return {name: float(number) for name, number in named.items()}

    def _prepared(self, images: Any) -> Tensor:
        """Return images as the metric expects them."""
        x: Tensor = images.float()
        if self.color == "y":
            x = to_pixels(x.clamp(0, 1) if self.round_8bit else x, "y", 0, self.round_8bit) / 255
        elif self.round_8bit:
            x = (x.clamp(0, 1) * 255).round() / 255
        if self.pixels == "uint8":
            return (x * 255).round().to(images.device, torch.uint8).contiguous()
        x = x * 2 - 1 if self.pixels == "signed" else x
        # A copy, since a metric may write into its arguments; some also flatten them by `view`.
        return x.to(images.device, torch.float32).clone(memory_format=torch.contiguous_format)

    @contextmanager
    def _enclosed(self) -> Iterator[None]:
        """Forbid downloads, seed random numbers, and restore the global generator."""
        with weights.local_only(self.kind.__name__), torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(SEED)
            yield

    def _check(self) -> None:
        choices = (
            ("per", self.per, ("image", "set")),
            ("pixels", self.pixels, tuple(RANGES)),
            ("color", self.color, ("rgb", "y")),
            *(("inputs", name, ("sr", "hr", "lr")) for name in self.inputs),
        )
        for key, value, known in choices:
            if value not in known:
                raise ValueError(
                    f"`{key}` of TorchMetric has {value!r}; expected {' or '.join(known)}"
                )
        if self.smallest < 1:
            raise ValueError(f"`smallest` of TorchMetric is {self.smallest}; expected 1 or more")
        if "sr" not in self.inputs:
            raise ValueError("`inputs` of TorchMetric has no 'sr', the output that is measured")
        if self.pixels == "uint8" and not self.round_8bit:
            raise ValueError(
                "`pixels: uint8` of TorchMetric needs whole levels: leave `round_8bit` true"
            )
        if self.takes_real and (self.per != "set" or len(self.inputs) != 2):
            raise ValueError(
                f"{self.kind.__name__} compares two sets: set `per: set` of TorchMetric, and two "
                "`inputs`: first the outputs, then the real images"
            )
        update = inspect.signature(self.kind.update)
        try:
            if not self.takes_real:
                update.bind(None, *self.inputs)
        except TypeError as error:
            raise ValueError(
                f"`inputs` of TorchMetric is {', '.join(self.inputs)}, but {self.kind.__name__} "
                f"takes {update}: {error}"
            ) from error


def _class_of(metric: Any) -> tuple[type[torchmetrics.Metric], dict[str, Any]]:
    """Return the class and the arguments of a factory; the parser passes a ``partial``."""
    parts = (*metric.args, metric.func) if isinstance(metric, partial) else (metric,)
    for part in parts:
        if isinstance(part, type) and issubclass(part, torchmetrics.Metric):
            arguments = dict(metric.keywords) if isinstance(metric, partial) else {}
            try:
                inspect.signature(part).bind(**arguments)
            except TypeError as error:
                raise TypeError(f"`metric` of TorchMetric, {part.__name__}: {error}") from error
            return part, arguments
    raise TypeError(
        f"`metric` of TorchMetric is {metric!r}; expected a class of torchmetrics, as in "
        "{class_path: torchmetrics.image.PeakSignalNoiseRatio, init_args: {data_range: 1.0}}"
    )


def _outside_states(metric: torchmetrics.Metric) -> dict[str, Tensor]:
    """Return the tensors that `torchmetrics` neither resets nor reduces over processes."""
    states = metric.metric_state
    return {
        name: value
        for name, value in vars(metric).items()
        if isinstance(value, Tensor) and name not in states
    }


def _snake_case(name: str) -> str:
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()


def _plain(value: Any) -> str | int | float | bool | None:
    """Return an argument for the protocol; for a network, its class and a hash of its weights."""
    if value is None or isinstance(value, str | bool | int | float):
        return value
    if isinstance(value, list | tuple):
        return ", ".join(str(_plain(part)) for part in value)
    if isinstance(value, nn.Module):
        digest = xxhash.xxh3_64()
        for name, tensor in value.state_dict().items():
            digest.update(name.encode() + tensor.detach().cpu().contiguous().numpy().tobytes())
        return f"{type(value).__module__}.{type(value).__qualname__}, weights {digest.hexdigest()}"
    if isinstance(value, type) or callable(value):
        return f"{value.__module__}.{value.__qualname__}"
    return str(value)


def _copied(metric: torchmetrics.Metric) -> torchmetrics.Metric:
    """Return a metric with states of its own, and the same networks."""
    return copy.deepcopy(metric, {id(network): network for network in metric.children()})
