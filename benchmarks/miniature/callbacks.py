"""Callbacks for the evaluation of a miniature's row: its cost, and its outputs as files."""

from __future__ import annotations

import statistics
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor
from torch.utils.hooks import RemovableHandle

from callbacks.evaluation import output_image
from callbacks.metrics.base import Measured, Metric, Record
from callbacks.predict.files import Extras, write_image
from callbacks.tensorboard import MetricProtocol
from files.method import method_of

if TYPE_CHECKING:
    from files.batch import Batch

OUTPUTS = "outputs"  # folder in the row's run, with one a seed
INPUTS = ("hr", "lr")  # beside the folders of seeds


class Cost(Metric):
    """Seconds an image (their median), and calls of the model's networks for it.

    ``seconds`` is the time from the batch on the device to the output, divided by the images of
    the batch; it should stand first in ``trainer.callbacks``, or other callbacks' work of that
    moment is counted too. ``calls`` counts the forward passes of all modules with parameters that
    the model holds by a name of its own: of a diffusion, the network's. A base that is asked for
    features and images apart, as CasArbi's is, has none.

    Args:
        every_n: In ``fit``, compute at the first validation and at every n-th after it.
        limit: Use only the first images of each dataset, this many; all of them by default.
        label: Name in logs and results.
    """

    name = "cost"
    higher_is_better = False
    needs_hr = False

    def __init__(
        self, every_n: int = 1, limit: int | None = None, label: str | None = None
    ) -> None:
        super().__init__(every_n, limit, label)
        self._begun, self._calls = 0.0, 0
        self._hooks: list[RemovableHandle] = []

    def protocol(self) -> MetricProtocol:
        """Implementation and number of threads; the machine is in the report."""
        return {"implementation": "enlarger cost 1", "threads": torch.get_num_threads()}

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """As all metrics; also listen to the model's networks."""
        super().setup(trainer, pl_module, stage)
        for module in pl_module.children():
            if any(True for _ in module.parameters()):
                self._hooks.append(module.register_forward_pre_hook(self._count))

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Listen no more."""
        while self._hooks:
            self._hooks.pop().remove()

    def on_test_batch_start(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """The batch is on the device."""
        _wait(pl_module.device)
        self._begun, self._calls = time.perf_counter(), 0

    on_validation_batch_start = on_test_batch_start

    def measure(self, sr: Tensor, hr: Tensor, batch: Batch) -> Tensor:
        """Return (B, 2) seconds and calls."""
        _wait(sr.device)
        seconds = (time.perf_counter() - self._begun) / len(sr)
        return torch.tensor([[seconds, self._calls]], dtype=torch.float64).repeat(len(sr), 1)

    def summarise(self, dataset: Any, images: Measured) -> list[Record]:
        """Return the median of the seconds, for the first image warms up, and the mean calls."""
        seconds, calls = zip(*(cost.tolist() for cost in images.values()), strict=True)
        values = {"seconds": statistics.median(seconds), "calls": statistics.fmean(calls)}
        return [self.record(dataset, v, len(images), name) for name, v in values.items()]

    def _count(self, module: torch.nn.Module, arguments: Any) -> None:
        self._calls += 1


class KeepOutputs(Callback):
    """Write each output as ``outputs/<seed>/<key>.png`` in the run's folder, with HR and LR."""

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
        folder, seed = Path(trainer.default_root_dir, OUTPUTS), method_of(pl_module).noise_seed
        for name, images in ((str(seed), output_image(outputs)), *((x, batch[x]) for x in INPUTS)):
            levels = (images.clamp(0, 1) * 255).round().to(torch.uint8).movedim(1, -1)
            for key, pixels in zip(batch["key"], levels.cpu().numpy(), strict=True):
                write_image(folder / name / f"{key}.png", pixels, Extras(), "png", 0)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
