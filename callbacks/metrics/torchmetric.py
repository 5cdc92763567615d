"""Any metric of torchmetrics, named by its class path, as a metric of this framework."""

from __future__ import annotations

import inspect
import math
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, Literal

import torch
import torchmetrics
import xxhash
from torch import Tensor, nn

from callbacks.evaluation import MetricProtocol, are_finite
from callbacks.metrics.base import ImageMetric, TooSmall
from callbacks.metrics.pixels import to_pixels
from files.batch import Batch
from files.numbers import PositiveInt

SEED = 2020  # for metrics that draw random numbers when they compute
RANGES = {
    "unit": "float32 in [0, 1]",
    "signed": "float32 in [-1, 1]",
    "uint8": "uint8 in [0, 255]",
}


class TorchMetric(ImageMetric):
    """A metric of torchmetrics, or of your own on its base class, by class path.

    The metric is reset, updated and computed for each image; the numbers are stored by image, and
    their mean is logged, as in papers (torchmetrics itself often pools over all pixels instead). A
    distance of two sets is a ``callbacks.SetMetric`` instead, as FID is.

    Args:
        metric: The class: ``{class_path: torchmetrics.image.PeakSignalNoiseRatio, init_args:
            {data_range: 1.0}}``. In Python, a class or a ``functools.partial`` of one. Its
            arguments are part of the protocol.
        inputs: What ``update`` takes, in order: ``sr`` (the output), ``hr``, ``lr``.
        pixels: What the metric expects: ``unit`` (float in [0, 1]), ``signed`` (float in [-1, 1]),
            or ``uint8`` (rounded to 0 ... 255).
        color: ``rgb``, or ``y`` for the luma of BT.601, as one channel.
        smallest: Side in pixels that the metric needs. Smaller images are skipped with a warning.
        higher_is_better: The direction; by default the class's own. Required if it has none.

    Raises:
        ValueError: If the direction is missing.
        TypeError: If ``metric`` is not a class of torchmetrics.
    """

    name = "torchmetric"

    def __init__(
        self,
        metric: Callable[[], torchmetrics.Metric],
        inputs: tuple[Literal["sr", "hr", "lr"], ...] = ("sr", "hr"),
        pixels: Literal["unit", "signed", "uint8"] = "unit",
        color: Literal["rgb", "y"] = "rgb",
        smallest: PositiveInt = 1,
        higher_is_better: bool | None = None,
        **kwargs: Any,
    ) -> None:
        self.kind, self.arguments = _class_and_arguments(metric)
        # By default, in snake case.
        self.name = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", self.kind.__name__).lower()
        super().__init__(**kwargs)
        self.inputs = tuple(inputs)
        self.pixels = pixels
        self.color = color
        self.smallest = smallest
        direction = self.kind.higher_is_better if higher_is_better is None else higher_is_better
        if direction is None:
            raise ValueError(
                f"{self.kind.__name__} does not declare whether higher is better: set "
                "`higher_is_better` of TorchMetric in trainer.callbacks"
            )
        self.higher_is_better = direction
        self.needs_hr = "hr" in self.inputs
        self.needs_lr = "lr" in self.inputs
        self.metric: torchmetrics.Metric  # once loaded

    def load(self) -> None:
        """Construct the metric, without global random numbers."""
        with self._own_random_numbers():
            self.metric = self.kind(**self.arguments).eval()
        # No collective operation within a step, also of metrics in it: numbers are gathered later.
        for part in self.metric.modules():
            if isinstance(part, torchmetrics.Metric):
                part.distributed_available_fn = lambda: False

    def protocol(self) -> MetricProtocol:
        """Return class and version, arguments, inputs, colour, rounding and range."""
        bound = inspect.signature(self.kind).bind(**self.arguments)
        bound.apply_defaults()
        arguments = {
            name: _for_protocol(value)
            for name, value in bound.arguments.items()
            if name not in ("args", "kwargs")
        }
        kind = f"{self.kind.__module__}.{self.kind.__qualname__}"
        return arguments | {
            "implementation": f"torchmetrics {torchmetrics.__version__}, {kind}",
            "per": "image",
            "inputs": ", ".join(self.inputs),
            "color": self.color,
            "round_8bit": True,
            "pixels": RANGES[self.pixels],
        }

    def compute(self, sr: Tensor, hr: Tensor, batch: Batch) -> Tensor:
        """Return (B,) numbers.

        Raises:
            TooSmall: If the images are below ``smallest``.
            Exception: Whatever the metric raises, such as for pixels that it does not expect.
        """
        if min(sr.shape[-2:]) < self.smallest:
            raise TooSmall(sr, f"{self.smallest}x{self.smallest} pixels")
        values = [math.nan] * len(sr)
        images = {"sr": sr, "hr": hr, "lr": batch.get("lr")}
        inputs = [self._prepared(images[name]) for name in self.inputs]
        finite = are_finite(sr).tolist()
        for i in range(len(sr)):
            if finite[i]:
                with self._own_random_numbers():
                    for metric in self.metric.modules():  # also one that a metric holds
                        if isinstance(metric, torchmetrics.Metric):
                            metric.reset()
                    self.metric.update(*(x[i : i + 1] for x in inputs))
                    values[i] = float(self.metric.compute())
        return torch.tensor(values, dtype=torch.float64)

    def _add(self, outputs: Any, batch: Batch, dataloader_idx: int) -> None:
        if not self._active or not set(self.inputs) <= {"sr", *batch}:
            return
        super()._add(outputs, batch, dataloader_idx)

    def _prepared(self, images: Any) -> Tensor:
        """Return images in [0, 1] with the colour, range and type that the metric expects."""
        x: Tensor = images.float().clamp(0, 1)
        x = to_pixels(x, "y") / 255 if self.color == "y" else (x * 255).round() / 255
        if self.pixels == "uint8":
            return (x * 255).round().to(images.device, torch.uint8).contiguous()
        if self.pixels == "signed":
            x = x * 2 - 1
        # A copy, since a metric may write into its arguments; some also flatten them by `view`.
        return x.to(images.device, torch.float32).clone(memory_format=torch.contiguous_format)

    @contextmanager
    def _own_random_numbers(self) -> Iterator[None]:
        """Seed torch's global generator for a metric that draws, and restore it afterwards."""
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(SEED)
            yield


def _class_and_arguments(metric: Any) -> tuple[type[torchmetrics.Metric], dict[str, Any]]:
    """Return the class of ``metric``, and its arguments if it is a ``partial`` of the parser."""
    parts = (*metric.args, metric.func) if isinstance(metric, partial) else (metric,)
    for part in parts:
        if isinstance(part, type) and issubclass(part, torchmetrics.Metric):
            return part, dict(metric.keywords) if isinstance(metric, partial) else {}
    raise TypeError(
        f"`metric` of TorchMetric is {metric!r}; expected a class of torchmetrics, as in "
        "{class_path: torchmetrics.image.PeakSignalNoiseRatio, init_args: {data_range: 1.0}}"
    )


def _for_protocol(value: Any) -> str | int | float | bool | None:
    """Return an argument as a protocol has it; a network as its class and a hash of its weights."""
    if value is None or isinstance(value, str | bool | int | float):
        return value
    if isinstance(value, list | tuple):
        return ", ".join(str(_for_protocol(part)) for part in value)
    if isinstance(value, nn.Module):
        digest = xxhash.xxh3_64()
        for name, tensor in value.state_dict().items():
            digest.update(name.encode() + tensor.detach().cpu().contiguous().numpy().tobytes())
        return f"{type(value).__module__}.{type(value).__qualname__}, weights {digest.hexdigest()}"
    if isinstance(value, type) or callable(value):
        return f"{value.__module__}.{value.__qualname__}"
    return str(value)
