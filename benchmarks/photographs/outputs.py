"""The callback of a row's test: its outputs as files, with HR and LR."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

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
            levels = (images.clamp(0, 1) * 255).round().to(torch.uint8).movedim(1, -1)
            for key, pixels in zip(batch["key"], levels.cpu().numpy(), strict=True):
                path = folder / name / f"{key}.png"
                write_image(path, pixels, Extras(), "png", 0)
