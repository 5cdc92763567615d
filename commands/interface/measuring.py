"""Outputs measured against references, by the metrics of ``callbacks``."""

from __future__ import annotations

import contextlib
import logging
import math
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypedDict, cast

import numpy as np
from lightning.pytorch import Trainer
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

import callbacks
from callbacks.evaluation import MetricProtocol
from callbacks.metrics.base import Metric
from callbacks.metrics.pixels import border_in_pixels
from callbacks.results.rows import Row, of_datasets, of_images, rows_of
from commands.errors import did_you_mean
from commands.interface.images import to_tensor
from datamodules.base import checked_scale
from degradations.base import cut_size
from files.batch import Batch
from files.images.decode import read_image
from files.paths import images_by_key
from lightning_modules.base import NothingToTrain, SuperResolver
from lightning_modules.noise import Noise

Images = str | Path | Sequence[Any] | Mapping[str, Any]


class Measured(TypedDict):
    """A number of ``measure``.

    value: Mean over the images, or the number of the whole set.
    n: Number of images that it is of, without those whose number is left out as infinite.
    protocol: How it was computed.
    higher_is_better: The metric's direction; None if it has none.
    images: The number of each image by its name; empty for a number of the whole set.
    """

    value: float
    n: int
    protocol: Mapping[str, Any]
    higher_is_better: bool | None
    images: dict[str, float]


def measure(
    outputs: Images,
    references: Images | None = None,
    metrics: str | Sequence[str | Metric] = ("psnr", "ssim"),
    *,
    scale: float = 1,
    device: str = "auto",
) -> dict[str, Measured]:
    """Measure outputs as ``main.py test`` does; images are taken whole and with all their bits.

    Args:
        outputs: A folder; a list of images or files; or images by name. A single image is a list
            of one.
        references: The HR images, in the same form: files of a folder have the same names, lists
            the same order. None for metrics that need none, such as NIQE.
        metrics: Names, such as ``psnr``, ``lpips`` or ``fid``, or metrics of ``callbacks``.
        scale: Factor by which the outputs were enlarged: the border that is left out by PSNR and
            SSIM in the protocol of most papers.
        device: Accelerator of Lightning's Trainer.

    Returns:
        The number of each metric, by its name; without those whose images are all too small.

    Raises:
        ValueError: If images are missing or differ in size, or a metric is unknown.
        FileNotFoundError: If the weights of a metric are missing.
    """
    return by_metric(measured_rows(outputs, references, metrics, scale, device))


def measured_rows(
    outputs: Images,
    references: Images | None,
    metrics: str | Sequence[str | Metric],
    scale: float,
    device: str,
) -> list[Row]:
    """Return the numbers of outputs, and of each one. Arguments and errors as in ``measure``."""
    checked_scale(scale, "")
    names = [metrics] if isinstance(metrics, str) else metrics
    chosen = [_find_metric(metric) for metric in names]
    for metric in chosen:
        if metric.needs_hr and references is None:
            raise ValueError(f"{metric.name} needs references")
    sr = _images_by_name(outputs, "outputs")
    hr = None if references is None else _images_by_name(references, "references")
    images = _Images(scale, sr, hr)
    with _quiet_lightning():
        trainer = Trainer(
            accelerator=device,
            devices=1,
            callbacks=[*chosen],
            logger=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        trainer.test(_Outputs(scale), DataLoader(images, batch_size=None), verbose=False)
    rows: list[Row] = []
    for metric in chosen:
        is_cut = images.cut and metric.needs_hr
        for row in rows_of(metric, checkpoint=None, seed=None):
            rows.append(replace(row, protocol=_protocol(row, is_cut)))
    return rows


def _protocol(row: Row, is_cut: bool) -> MetricProtocol:
    """Return the protocol of a number, with its border in pixels, and whether HR was cut."""
    protocol = dict(row.protocol)
    if protocol.get("border") in ("scale", "scale+6"):
        protocol["border"] = border_in_pixels(str(protocol["border"]), row.scale)
    if is_cut:
        protocol["reference"] = f"cut to multiples of {row.scale:g}"
    return protocol


def by_metric(rows: Sequence[Row]) -> dict[str, Measured]:
    """Return the numbers of ``measured_rows`` by metric, in the form that ``measure`` returns."""
    numbers: dict[str, Measured] = {}
    for row in of_datasets(rows):
        same = [other for other in of_images(rows) if other.metric == row.metric]
        numbers[row.metric] = {
            "value": row.value,
            "n": row.n - row.not_finite if math.isfinite(row.value) else row.n,
            "protocol": row.protocol,
            "higher_is_better": row.higher_is_better,
            "images": {str(other.image).partition("/")[2]: other.value for other in same},
        }
    return numbers


@contextlib.contextmanager
def _quiet_lightning() -> Iterator[None]:
    """Hide Lightning's log and warnings, which are about training."""
    logger = logging.getLogger("lightning.pytorch")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module="lightning")
            yield
    finally:
        logger.setLevel(level)


def _find_metric(metric: str | Metric) -> Metric:
    """Return a metric by its name, or as it is; without its weights it will be an error."""
    if isinstance(metric, str):
        names = {name.lower(): name for name in dir(callbacks)}
        kind = getattr(callbacks, names.get(metric.replace("_", "").lower(), ""), None)
        if not (isinstance(kind, type) and issubclass(kind, Metric)):
            raise ValueError(
                f"there is no metric {metric!r}{did_you_mean(metric.lower(), names)}; "
                "docs/metrics.md lists them"
            )
        metric = kind()
    metric.strict_weights = True
    return metric


def _images_by_name(images: Images, argument: str) -> dict[str, Any]:
    """Return images by name; those of a list by their number."""
    if isinstance(images, Mapping):
        return {str(name): image for name, image in images.items()}
    if isinstance(images, str | Path):
        return images_by_key(Path(images))
    # A single array is iterable, too: its rows would be taken for grey images.
    is_one = isinstance(images, np.ndarray | Tensor) and images.ndim < 4
    if is_one or not isinstance(images, Iterable):
        kind = type(images).__name__
        raise ValueError(
            f"{argument} is a single {kind}; expected a folder, a list of images, or images by name"
        )
    return {f"{number:06}": image for number, image in enumerate(images)}


class _Images(Dataset[Batch]):
    """Outputs and their references, as they are."""

    name = "images"

    def __init__(
        self, scale: float, outputs: dict[str, Any], references: dict[str, Any] | None
    ) -> None:
        if not outputs:
            raise ValueError("there are no outputs")
        if references is not None and outputs.keys() != references.keys():
            differing = sorted(outputs.keys() ^ references.keys())
            raise ValueError(
                f"outputs and references differ in {len(differing)} names, such as {differing[0]}"
            )
        self.scale, self.outputs, self.references = scale, outputs, references
        self.cut = False  # whether any reference was, to the size of its output
        self.keys = [f"{self.name}/{name}" for name in outputs]

    def __len__(self) -> int:
        return len(self.keys)

    def __getitem__(self, index: int) -> Batch:
        name = self.keys[index].partition("/")[2]
        sr = _rgb(self.outputs[name])
        batch: dict[str, Any] = {"key": [self.keys[index]], "size": sr.shape[-2:], "sr": sr}
        if self.references is not None:
            batch["hr"] = self._reference(self.references[name], sr)
        return cast("Batch", batch)

    def _reference(self, reference: Any, sr: Tensor) -> Tensor:
        """Return HR, cut to the size of an output whose scale does not divide it."""
        hr = _rgb(reference)
        if hr.shape == sr.shape:
            return hr
        hr_height, hr_width = hr.shape[-2:]
        height, width = sr.shape[-2:]
        if (height, width) != cut_size((hr_height, hr_width), self.scale):
            return hr  # which the metric refuses
        self.cut = True
        return hr[..., :height, :width]


class _Outputs(NothingToTrain, SuperResolver):
    """Outputs that are there already."""

    def restore(self, batch: Batch, noise: Noise) -> Tensor:
        raise NotImplementedError  # there is no LR

    def test_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> dict[str, Tensor]:
        return {"sr": batch["sr"]}


def _rgb(image: Any) -> Tensor:
    """Return an image or a file as (1, 3, H, W) in [0, 1], of all its bits."""
    if isinstance(image, str | Path):
        image = read_image(image, srgb=True).array()
    return to_tensor(image, srgb=True)[0][:, :3]
