"""What the evaluation of a miniature's row needs beside metrics: its cost, and its outputs."""

from __future__ import annotations

import math
import statistics
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor
from torch.utils.hooks import RemovableHandle

from benchmarks.memory import Peak
from callbacks.evaluation import output_image
from callbacks.metrics.base import Measured, Metric, Record
from callbacks.predict.files import Extras, write_image
from callbacks.tensorboard import MetricProtocol

if TYPE_CHECKING:
    from datamodules.base import Batch

OUTPUTS = "outputs"  # folder in the row's run, with one a seed
BATCHES = 3  # of each dataset: those whose memory is looked at
HR = "hr"  # beside those of seeds


class Cost(Metric):
    """Seconds an image (their median), calls of the model's networks for it, and what it takes.

    ``seconds`` is the time from the batch on the device to the output, divided by the images of
    the batch; it should stand first in ``trainer.callbacks``, or other callbacks' work of that
    moment is counted too. ``calls`` counts the forward passes of all modules with parameters that
    the model holds by a name of its own: of a diffusion, the network's. A base that is asked for
    features and pictures apart, as CasArbi's is, has none. ``parameters`` are those that the model
    restores by, in millions, and ``memory`` is the most that a batch needed beside what was there
    before it, in MiB, the median of the first three of a dataset: of the card, or of the process
    where the system says it (Linux).

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
        self._parameters = 0.0
        self._peak: Peak | None = None
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
        unused = getattr(pl_module, "training_only", ())
        used = [p for n, p in pl_module.named_parameters() if not n.startswith(unused)]
        self._parameters = sum(parameter.numel() for parameter in used) / 1e6

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
        # To look for it takes the heap's free room away, and so time: not in most batches.
        self._peak = Peak(pl_module.device) if batch_idx < BATCHES else None
        self._begun, self._calls = time.perf_counter(), 0

    on_validation_batch_start = on_test_batch_start

    def measure(self, sr: Tensor, hr: Tensor, batch: Batch) -> Tensor:
        """(B, 3) seconds, calls, and memory, which is not a number where nobody looked."""
        _wait(sr.device)
        seconds = (time.perf_counter() - self._begun) / len(sr)
        memory = math.nan if self._peak is None else self._peak.reached()
        found = [[seconds, self._calls, memory]]
        return torch.tensor(found, dtype=torch.float64).repeat(len(sr), 1)

    def summarise(self, dataset: Any, images: Measured) -> list[Record]:
        """The median of the seconds, for the first image warms up; the mean of the calls."""
        seconds, calls, memory = zip(*(cost.tolist() for cost in images.values()), strict=True)
        values = {
            "seconds": statistics.median(seconds),
            "calls": statistics.fmean(calls),
            "parameters": self._parameters,
        }
        if known := [value for value in memory if not math.isnan(value)]:
            values["memory"] = statistics.median(known)
        return [self.record(dataset, v, len(images), name) for name, v in values.items()]

    def _count(self, module: torch.nn.Module, arguments: Any) -> None:
        self._calls += 1


class KeepOutputs(Callback):
    """Write each output as ``outputs/<seed>/<key>.png`` in the run's directory, HR beside them.

    A clip is a folder of its frames, ``outputs/<seed>/<key>/000.png`` and so on.
    """

    def on_test_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Write the pictures of one batch."""
        folder = Path(trainer.default_root_dir, OUTPUTS)
        _write(folder / str(getattr(pl_module, "noise_seed", 0)), batch, output_image(outputs))
        for real in ("hr", "clip"):
            if real in batch:
                _write(folder / HR, batch, batch[real])


def _write(folder: Path, batch: Any, pictures: Tensor) -> None:
    levels = (pictures.clamp(0, 1) * 255).round().to(torch.uint8).movedim(-3, -1).cpu().numpy()
    for key, pixels in zip(batch["key"], levels, strict=True):
        if pixels.ndim == 3:
            write_image(folder / f"{key}.png", pixels, Extras(), "png", 0)
            continue
        for number, frame in enumerate(pixels):
            write_image(folder / key / f"{number:03}.png", frame, Extras(), "png", 0)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
