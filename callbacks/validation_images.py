"""Images of each validation of ``fit``, in TensorBoard: LR, bicubic, output and HR side by side."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.trainer.states import TrainerFn
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor
from torch.nn import functional

from callbacks.evaluation import all_callbacks, evaluated_datasets
from callbacks.metrics.base import ImageMetric
from degradations.bicubic import resize
from degradations.images import as_image
from files.numbers import NonNegativeInt, PositiveInt

GAP = 8  # pixels between two images
NARROWEST = 160  # pixels of a column, for its words
FONT = 22  # pixels; TensorBoard shows images at about half of their size
LINE = 28  # pixels


class ValidationImages(Callback):
    """Log the first images of each dataset at each validation within ``fit``.

    ``images/<key>`` has LR (its pixels enlarged), bicubic, output and HR side by side,
    and below them the numbers of the whole image. TensorBoard gets them, and each logger that has
    ``log_image``, as Lightning's of W&B. Only the first process logs, and only images of its share.
    They stay on the device until the validation ends.

    Args:
        limit: Images of each dataset, always the same; 0 logs none.
        side: Larger images are cut to the square of this side in their middle.
    """

    def __init__(self, limit: NonNegativeInt = 4, side: PositiveInt = 256) -> None:
        super().__init__()
        self.limit = limit
        self.side = side
        # By dataset, key, and what they are; each (3, H, W) in [0, 1].
        self._images: dict[str, dict[str, dict[str, Tensor]]] = {}

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Forget images of a validation that was interrupted."""
        self._images = {}

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Keep what is shown of the first images; clips are not shown."""
        if trainer.state.fn != TrainerFn.FITTING or trainer.sanity_checking:
            return
        if not trainer.is_global_zero or not trainer.loggers:
            return
        if not isinstance(outputs, dict) or "sr" not in outputs:
            return
        sr = outputs["sr"]
        if sr.ndim != 4:
            return
        dataset = evaluated_datasets(trainer)[dataloader_idx]
        of_dataset = self._images.setdefault(dataset.name, {})
        for number, key in enumerate(batch["key"]):
            if len(of_dataset) == self.limit:
                return
            one = slice(number, number + 1)
            of_dataset[key] = self._middles(sr[one], batch, one)

    def _middles(self, sr: Tensor, batch: Any, one: slice) -> dict[str, Tensor]:
        height, width = sr.shape[-2:]
        images = {}
        if "lr" in batch:
            lr = batch["lr"][one].float()
            images["LR"] = functional.interpolate(lr, (height, width), mode="nearest")
            images["bicubic"] = resize(lr, (height, width))
        images["output"] = sr
        if "hr" in batch and batch["hr"].shape[-2:] == sr.shape[-2:]:
            images["HR"] = batch["hr"][one]
        rows = middle(height, self.side)
        columns = middle(width, self.side)
        middles = {}
        for name, image in images.items():
            middles[name] = image[0, :, rows, columns].clone()  # or the whole one would be kept
        return middles

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log the images, now that metrics have their numbers."""
        step = trainer.global_step - 1  # at which Lightning logs the numbers
        for dataset, of_dataset in self._images.items():
            for key, images in of_dataset.items():
                together = side_by_side(images, lines_of(trainer, dataset, key))
                for logger in trainer.loggers:
                    log_image(logger, f"images/{key}", together, step)
        if self._images:
            for logger in trainer.loggers:
                logger.save()  # or a killed process would lose them
        self._images = {}


def middle(length: int, side: int) -> slice:
    """Return the ``side`` pixels in the middle of a line, or all of a shorter one."""
    first = max(0, (length - side) // 2)
    return slice(first, first + side)


def lines_of(trainer: Trainer, dataset: str, key: str) -> dict[str, list[str]]:
    """Return what is written below an output and its bicubic: a line for each metric."""
    output = []
    bicubic = []
    for metric in all_callbacks(trainer):
        if not isinstance(metric, ImageMetric):
            continue
        values = metric.images.get(dataset, {})
        if key in values:
            output.append(f"{metric.name} {values[key]:.4g}")
        values = metric.control_images.get(dataset, {})
        if key in values:
            bicubic.append(f"{metric.name} {values[key]:.4g}")
    return {"output": output, "bicubic": bicubic}


def side_by_side(images: dict[str, Tensor], lines: dict[str, list[str]]) -> npt.NDArray[np.uint8]:
    """Return images side by side on white, each with its name and its lines below: (H, W, 3).

    Args:
        images: By their names; (3, h, w) in [0, 1], of one size. NaN is black.
        lines: By the same names.
    """
    height, width = images["output"].shape[-2:]
    step = max(width, NARROWEST) + GAP
    rows = 1 + max(map(len, lines.values()))
    size = (step * len(images) - GAP, height + LINE * rows + GAP)
    paper = Image.new("RGB", size, "white")
    pen = ImageDraw.Draw(paper)
    font = ImageFont.load_default(FONT)
    left = 0
    for name, image in images.items():
        paper.paste(as_image(image.float().nan_to_num(0)), (left, 0))
        top = height
        for text in [name, *lines.get(name, [])]:
            pen.text((left, top), text, "black", font)
            top += LINE
        left += step
    return np.asarray(paper)


def log_image(logger: Any, tag: str, image: npt.NDArray[np.uint8], step: int) -> None:
    """Give an image (H, W, 3) to a logger; one that takes none is left out."""
    if isinstance(logger, TensorBoardLogger):
        logger.experiment.add_image(tag, image, step, dataformats="HWC")
    elif hasattr(logger, "log_image"):
        logger.log_image(tag, [image], step)
