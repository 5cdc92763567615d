"""The callback of a row's test: its outputs as files, with HR and LR."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from callbacks.evaluation import output_image
from callbacks.predict.files import Extras, write_image

OUTPUTS = "outputs"  # folder in the row's run, with one a part
PARTS = ("sr", "hr", "lr")


class KeepOutputs(Callback):
    """Write each output as ``outputs/sr/<key>.png`` in the run, beside ``hr`` and ``lr``."""

    def on_test_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Write the images of one batch."""
        folder = Path(trainer.default_root_dir, OUTPUTS)
        for name, images in zip(
            PARTS, (output_image(outputs), batch["hr"], batch["lr"]), strict=True
        ):
            for key, image in zip(batch["key"], images, strict=True):
                write_png(folder / name / f"{key}.png", image[None])


def write_png(path: Path, image: Tensor) -> None:
    """Write an image, (1, 3, H, W) in [0, 1]."""
    levels = (image[0].clamp(0, 1) * 255).round().to(torch.uint8).movedim(0, -1)
    write_image(path, levels.cpu().numpy(), Extras(), "png", 0)
