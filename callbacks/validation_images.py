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
NARROWEST = 128  # pixels of a column, for its words
LINE = 18  # pixels


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
        is_fit = trainer.state.fn == TrainerFn.FITTING and not trainer.sanity_checking
        if not is_fit or not trainer.is_global_zero or not trainer.loggers:
            return
        if not isinstance(outputs, dict) or "sr" not in outputs or outputs["sr"].ndim != 4:
            return
        name = evaluated_datasets(trainer)[dataloader_idx].name
        of_dataset = self._images.setdefault(name, {})
        for number, key in enumerate(batch["key"]):
            if len(of_dataset) == self.limit:
                break
            one = slice(number, number + 1)
            of_dataset[key] = self._middles(outputs["sr"][one], batch, one)

    def _middles(self, sr: Tensor, batch: Any, one: slice) -> dict[str, Tensor]:
        size = (sr.shape[-2], sr.shape[-1])
        images = {}
        if "lr" in batch:
            lr = batch["lr"][one].float()
            images["LR"] = functional.interpolate(lr, size, mode="nearest")
            images["bicubic"] = resize(lr, size)
        images["output"] = sr
        if "hr" in batch and batch["hr"].shape[-2:] == size:
            images["HR"] = batch["hr"][one]
        top, left = (max(0, (length - self.side) // 2) for length in size)
        rows, columns = slice(top, top + self.side), slice(left, left + self.side)
        return {name: image[0, :, rows, columns].clone() for name, image in images.items()}

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log the images, now that metrics have their numbers."""
        step = trainer.global_step - 1  # at which Lightning logs the numbers
        metrics = [one for one in all_callbacks(trainer) if isinstance(one, ImageMetric)]
        for dataset, of_dataset in self._images.items():
            for key, images in of_dataset.items():
                numbers: dict[str, list[str]] = {name: [] for name in images}
                for metric in metrics:
                    for name, values in (
                        ("output", metric.images.get(dataset, {})),
                        ("bicubic", metric.control_images.get(dataset, {})),
                    ):
                        if key in values:
                            numbers[name].append(f"{metric.name} {values[key]:.4g}")
                together = side_by_side(images, numbers)
                for logger in trainer.loggers:
                    log_image(logger, f"images/{key}", together, step)
        if self._images:
            for logger in trainer.loggers:
                logger.save()  # or a killed process would lose them
        self._images = {}


def side_by_side(images: dict[str, Tensor], numbers: dict[str, list[str]]) -> npt.NDArray[np.uint8]:
    """Return images side by side on white, each with its name and lines below it: (H, W, 3).

    Args:
        images: By their names; (3, h, w) in [0, 1], of one size. NaN is black.
        numbers: The lines by the same names.
    """
    height, width = images["output"].shape[-2:]
    lines = 1 + max(map(len, numbers.values()))
    column = max(width, NARROWEST) + GAP
    paper = Image.new("RGB", (column * len(images) - GAP, height + LINE * lines + GAP), "white")
    pen = ImageDraw.Draw(paper)
    font = ImageFont.load_default(14)
    for number, (name, image) in enumerate(images.items()):
        left = column * number
        paper.paste(as_image(image.float().nan_to_num(0)), (left, 0))
        for line, text in enumerate([name, *numbers[name]]):
            pen.text((left, height + LINE * line), text, "black", font)
    return np.asarray(paper)


def log_image(logger: Any, tag: str, image: npt.NDArray[np.uint8], step: int) -> None:
    """Give an image (H, W, 3) to a logger; one that takes none is left out."""
    if isinstance(logger, TensorBoardLogger):
        logger.experiment.add_image(tag, image, step, dataformats="HWC")
    elif hasattr(logger, "log_image"):
        logger.log_image(tag, [image], step)
