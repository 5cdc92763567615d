"""Images kept for the report.

<run>/report/images.json        the index, `Index`
<run>/report/images/<hash>.webp named by a hash of the pixels, so that an image that has not
                                  changed since the last validation is not written again
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
from pathlib import Path
from typing import Any, TypedDict

import numpy as np
import torch
from lightning.pytorch.loggers import MLFlowLogger, TensorBoardLogger, WandbLogger
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from callbacks.evaluation import MetricProtocol
from callbacks.pages.images import most_detailed
from callbacks.provenance import Provenance
from callbacks.results.files import load_or_set_aside, read_json, storable
from degradations.bicubic import resize
from files.owned import remove_file, whole_file, write_whole

log = logging.getLogger(__name__)
GAP = 8  # pixels between rows of images
INDEX, FOLDER = "report/images.json", "report/images"

# 25 % smaller than PNG, and faster; two to ten times the effort would save another 5 to 10 %.
WEBP: dict[str, Any] = {"format": "WEBP", "lossless": True, "quality": 50, "method": 0}
Pixels = NDArray[np.uint8]  # (H, W, 3)
Window = tuple[int, int, int, int]  # top, left, height, width


class ReportImage(TypedDict):
    """One image of a dataset.

    key: Its name in the dataset.
    size: Width and height of the whole output.
    window: The part that is shown: top, left, height, width.
    input: Hash of the LR image in 8 bits; None without one.
    files: File names of ``bicubic``, ``sr`` and ``hr``, as far as they exist.
    numbers: The whole image's numbers by metric, of ``sr`` and, if measured, of ``bicubic``.
    """

    key: str
    size: tuple[int, int]
    window: Window
    input: str | None
    files: dict[str, str]
    numbers: dict[str, dict[str, float]]


class Evaluation(TypedDict):
    """The images of one dataset in one evaluation, which replaces the last one.

    dataset: Name of the source in the configuration.
    scale: The factor its images were enlarged by.
    stage: ``validation`` or ``test``.
    step: Number of training steps so far.
    checkpoint: File or name of the weights; None during training.
    protocols: How the numbers were computed, by metric.
    images: In the dataset's order.
    """

    dataset: str
    scale: float
    stage: str
    step: int
    checkpoint: str | None
    protocols: dict[str, MetricProtocol]
    images: list[ReportImage]


class Index(Provenance):
    """The content of ``report/images.json``: the latest evaluation of each dataset and scale."""

    evaluations: list[Evaluation]


class ImageStore:
    """Write the images of a run.

    Args:
        run: The run's directory.
        side: Larger images are cut to the window of this side with the most detail.
    """

    def __init__(self, run: Path, side: int) -> None:
        self.run = run
        self.folder = run / FOLDER
        self.side = side

    def keep(
        self, dataset: Any, key: str, sr: Tensor, lr: Tensor | None, hr: Tensor | None
    ) -> ReportImage:
        """Write the new files of one image.

        Args:
            dataset: Has ``scale``.
            key: Name of the image.
            sr: (1, 3, H, W) in [0, 1], the output.
            lr: (1, 3, h, w) in [0, 1], the input, if there is one.
            hr: (1, 3, H, W) in [0, 1], the reference, if there is one.
        """
        if hr is not None and hr.shape != sr.shape:
            hr = None  # the metrics report it
        size = (sr.shape[-2], sr.shape[-1])
        bicubic = None if lr is None else resize(lr, size)
        images = {"bicubic": bicubic, "hr": hr, "sr": sr}
        height, width = (min(self.side, side) for side in size)
        top, left = (0, 0)
        if (height, width) != size:
            # Detail in the LR, so that all methods show the same window.
            reference = next(image for image in images.values() if image is not None)
            ((top, left),) = most_detailed(reference, (height, width), math.ceil(dataset.scale))
        window = (top, left, height, width)
        return {
            "key": key,
            "size": size[::-1],
            "window": window,
            "input": None if lr is None else _digest(to_8_bit(lr)),
            "files": {k: self._write(x, window) for k, x in images.items() if x is not None},
            "numbers": {},
        }

    def _write(self, image: Tensor, window: Window) -> str:
        top, left, height, width = window
        pixels = to_8_bit(image[..., top : top + height, left : left + width])
        path = self.folder / f"{_digest(pixels)}.webp"
        if not path.exists():
            with whole_file(path) as file:
                Image.fromarray(pixels).save(file, **WEBP)
        return path.name

    def side_by_side(self, images: list[ReportImage]) -> Pixels:
        """Return a row for each image: bicubic, output and HR, as far as they exist."""
        rows = []
        for image in images:
            names = [image["files"].get(kind) for kind in ("bicubic", "sr", "hr")]
            row = [np.asarray(Image.open(self.folder / name)) for name in names if name is not None]
            rows.append(np.concatenate(row, 1))
        return stacked(rows)


def stacked(rows: list[Pixels]) -> Pixels:
    """Return rows of images (H, W, 3) of any sizes below one another, on white."""
    width = max(row.shape[1] for row in rows)
    padded = []
    for row in rows:
        margins = ((0, GAP), (0, width - row.shape[1]), (0, 0))
        padded.append(np.pad(row, margins, constant_values=255))
    return np.concatenate(padded)


def log_image(logger: Any, tag: str, image: Pixels, step: int) -> None:
    """Give an image (H, W, 3) to a logger; those of other kinds take none."""
    if isinstance(logger, TensorBoardLogger):
        logger.experiment.add_image(tag, image, step, dataformats="HWC")
    elif isinstance(logger, WandbLogger):
        logger.log_image(tag, [image], step)
    elif isinstance(logger, MLFlowLogger):
        logger.experiment.log_image(logger.run_id, image, key=tag, step=step)


def to_8_bit(image: Tensor) -> Pixels:
    """Return the 8-bit levels of (1, 3, H, W) in [0, 1]; a pixel that is not finite is black."""
    rounded = (image[0].detach().float().nan_to_num(0, 0, 0).clamp(0, 1) * 255).round()
    return rounded.to(torch.uint8).permute(1, 2, 0).cpu().numpy()


def load_index(run: Path) -> Index | None:
    """Read the index of a run's images; None if it has none.

    Raises:
        ValueError: If the index is damaged.
    """
    path = run / INDEX
    if not path.exists():
        return None
    try:
        index: Index = read_json(path)
        for evaluation in index["evaluations"]:
            for image in evaluation["images"]:
                _check(image)
    except (KeyError, TypeError) as error:
        raise ValueError(
            f"{path} is damaged ({error!r}): remove it; the next validate or test writes a new one"
        ) from error
    return index


def write_index(run: Path, evaluations: list[Evaluation], source: Provenance) -> None:
    """Merge new evaluations into the index, and remove images that are not in it any more.

    Call it within ``one_writer``, or evaluations that another process adds meanwhile are lost.

    Args:
        run: The run's directory.
        evaluations: Each replaces that of the same dataset and scale.
        source: What wrote them.
    """
    old_index = load_or_set_aside(run / INDEX, lambda: load_index(run))
    old = old_index["evaluations"] if old_index else []
    merged = {(e["dataset"], e["scale"]): e for e in [*old, *evaluations]}
    index: Index = {**source, "evaluations": list(merged.values())}
    write_whole(run / INDEX, json.dumps(storable(index), indent=1) + "\n")
    # Only files of the old index: another process may be writing new files at this moment.
    for name in _files_of(old) - _files_of(index["evaluations"]):
        remove_file(run / FOLDER / name)


def _check(image: ReportImage) -> None:
    for name in image["files"].values():
        if name != Path(name).name:
            raise ValueError(f"a file named {name!r}")
    image["window"] = (*map(int, image["window"]),)  # type: ignore[typeddict-item]
    image["size"] = (*map(int, image["size"]),)  # type: ignore[typeddict-item]
    for numbers in image["numbers"].values():
        numbers.update((metric, float(value)) for metric, value in numbers.items())


def _files_of(evaluations: list[Evaluation]) -> set[str]:
    names: set[str] = set()
    for evaluation in evaluations:
        for image in evaluation["images"]:
            names.update(image["files"].values())
    return names


def _digest(pixels: Pixels) -> str:
    content = pixels.tobytes() + repr(pixels.shape).encode()
    return hashlib.blake2b(content, digest_size=12).hexdigest()
