"""Sample images: LR, bicubic, output and HR side by side."""

from __future__ import annotations

import logging
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.trainer.states import TrainerFn
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor
from torch.nn import functional

from callbacks.evaluation import (
    EvaluationCallback,
    Stage,
    check_at_least_one,
    evaluated_datasets,
    output_image,
    steps_done,
)
from callbacks.image_file import Extras, write_image
from callbacks.pixels import to_pixels
from callbacks.processes import gather
from callbacks.psnr import psnr
from degradations.bicubic import resize

if TYPE_CHECKING:
    from datamodules.base import Batch

log = logging.getLogger(__name__)

GAP, LINE, FONT_SIZE = 8, 22, 15  # pixels

Panel = tuple[str, NDArray[np.uint8]]  # a label, and (H, W, 3)


class SampleGrid(EvaluationCallback):
    """Draw the first images of each dataset: LR, bicubic, ours and HR, with PSNR-Y below.

    One PNG for each validation or test, in ``samples`` of the run's directory, and in TensorBoard
    if that is the logger. It shows the window with the most detail, enlarged; the numbers are of
    the whole images (Y, 8 bit, border = scale).

    Args:
        images: Number of images shown of each dataset, the first ones.
        crop: Side of the window in output pixels; ``null`` shows whole images.
        zoom: Enlarge each shown pixel to a square of this side.
        every_n: In ``fit``, draw at the first validation and at every n-th after it.

    Raises:
        ValueError: If a setting is below 1.
    """

    def __init__(
        self, images: int = 4, crop: int | None = 96, zoom: int = 3, every_n: int = 1
    ) -> None:
        super().__init__(every_n)
        check_at_least_one(self, images=images, crop=crop, zoom=zoom)
        self.images, self.crop, self.zoom = images, crop, zoom
        self.path: Path | None = None  # of the last grid
        self._active = False
        self._wanted: list[str] = []
        self._rows: dict[str, list[Panel]] = {}
        self._scales: list[float] = []

    def _start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._active = self._due(trainer)
        datasets = evaluated_datasets(trainer)
        self._wanted = [key for dataset in datasets for key in dataset.keys[: self.images]]
        self._scales = [float(dataset.scale) for dataset in datasets]
        self._rows = {}

    def _add(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Batch,
        dataloader_idx: int,
    ) -> None:
        if not self._active:
            return
        sr = output_image(outputs)
        for i, key in enumerate(batch["key"]):
            if key in self._wanted:
                one = {k: batch[k][i : i + 1] for k in ("lr", "hr") if k in batch}
                scale = self._scales[dataloader_idx]
                self._rows[key] = self._panels(sr[i : i + 1], one.get("lr"), one.get("hr"), scale)

    def _panels(
        self, sr: Tensor, lr: Tensor | None, hr: Tensor | None, scale: float
    ) -> list[Panel]:
        size = sr.shape[-2], sr.shape[-1]
        images: dict[str, Tensor] = {}
        if lr is not None:
            images["LR"] = functional.interpolate(lr, size, mode="nearest-exact")
            images["bicubic"] = resize(lr, size)
        images["ours"] = sr
        if hr is not None:
            images["HR"] = hr
        top, left, height, width = 0, 0, *size
        if self.crop is not None:
            height, width = min(self.crop, height), min(self.crop, width)
            # Detail in the LR: edges that a method can restore, rather than fine texture. It is
            # independent of the method, so all methods show the same windows.
            reference = images.get("bicubic", sr)
            top, left = most_detailed(reference, (height, width), math.ceil(scale))
        panels = []
        for name, image in images.items():
            label = name
            if hr is not None and name in ("bicubic", "ours"):
                label += f"  {_psnr_y(image, hr, scale):.2f} dB (Y)"
            window = image[..., top : top + height, left : left + width]
            panels.append((label, zoomed_levels(window, self.zoom)))
        return panels

    def _finish(self, trainer: Trainer, pl_module: LightningModule, stage: Stage) -> None:
        if not self._active:
            return
        # Gathered, so that the grid is the same for any number of processes.
        rows = {key: row for part in gather(self._rows) for key, row in part.items()}
        self._rows = {}
        rows = {key: rows[key] for key in self._wanted if key in rows}
        if not rows or not trainer.is_global_zero:
            return
        picture, step = compose(rows), steps_done(trainer, pl_module)
        name = f"{stage}-{step:08d}" if trainer.state.fn == TrainerFn.FITTING else stage
        path = Path(trainer.default_root_dir, "samples", f"{name}.png")
        try:
            write_image(path, picture, Extras(), "png", quality=100)
        except OSError as error:  # must not end the run
            log.warning("%s could not be written (%s)", path, error)
            return
        self.path = path
        log.info("images side by side: %s", self.path)
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger):
                logger.experiment.add_image(f"samples/{stage}", picture, step, dataformats="HWC")


def most_detailed(image: Tensor, size: tuple[int, int], step: int) -> tuple[int, int]:
    """Return the position of the window with the strongest gradients.

    Args:
        image: (1, 3, H, W).
        size: (h, w) of the window, at most (H, W).
        step: Round the position down to a multiple of this, so that LR pixels are shown whole.

    Returns:
        (top, left) of the window.
    """
    grey = image[0].cpu().double().mean(0)
    energy = functional.pad(grey.diff(dim=0).square(), (0, 0, 0, 1))
    energy += functional.pad(grey.diff(dim=1).square(), (0, 1))
    sums = functional.pad(energy.cumsum(0).cumsum(1), (1, 0, 1, 0))
    h, w = size
    windows = sums[h:, w:] - sums[:-h, w:] - sums[h:, :-w] + sums[:-h, :-w]
    top, left = divmod(int(windows.argmax()), windows.shape[1])
    return top // step * step, left // step * step


def compose(rows: dict[str, list[Panel]]) -> NDArray[np.uint8]:
    """Draw rows of labelled panels under their keys, as one (H, W, 3) image."""
    font = ImageFont.load_default(FONT_SIZE)
    width = max(sum(image.shape[1] + GAP for _, image in panels) for panels in rows.values()) + GAP
    height = sum(panels[0][1].shape[0] + 2 * LINE + GAP for panels in rows.values()) + GAP
    canvas = Image.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(canvas)
    y = GAP
    for key, panels in rows.items():
        draw.text((GAP, y), key, fill="gray", font=font)
        y += LINE
        x = GAP
        for label, image in panels:
            canvas.paste(Image.fromarray(image), (x, y))
            draw.text((x, y + image.shape[0] + 2), label, fill="black", font=font)
            x += image.shape[1] + GAP
        y += panels[0][1].shape[0] + LINE + GAP
    return np.asarray(canvas)


def _psnr_y(image: Tensor, hr: Tensor, scale: float) -> float:
    border = math.ceil(scale)
    if min(hr.shape[-2:]) <= 2 * border:
        border = 0  # an image of a few pixels
    return psnr(to_pixels(image, "y", border), to_pixels(hr, "y", border)).item()


def zoomed_levels(image: Tensor, zoom: int) -> NDArray[np.uint8]:
    """Return (H zoom, W zoom, 3) of (1, 3, H, W) in about [0, 1]: each pixel a square."""
    rounded = (image[0].float().clamp(0, 1) * 255).round().to(torch.uint8)
    squares = rounded.repeat_interleave(zoom, dim=1).repeat_interleave(zoom, dim=2)
    return squares.permute(1, 2, 0).cpu().numpy()
