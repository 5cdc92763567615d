"""The progress of a run: a bar in a terminal, occasional lines in a log file."""

from __future__ import annotations

import sys
import time
from math import inf
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ProgressBar
from tqdm import tqdm

from callbacks.evaluation import accumulated, output_image, predicted_dataset
from files.progress import bar_options

# Values of training that are shown. Logged with `prog_bar=True`, they would make the host wait for
# a GPU in every step; read here, only when the bar is drawn.
SHOWN = ("train/loss", "train/pixel", "train/bit_accuracy", "train/discriminator")


class Progress(ProgressBar):
    """Show steps done, steps per second, time left and the latest logged values.

    Training counts steps of the whole run, not batches of an epoch: after a resume the bar
    continues. If the output is not a terminal (SLURM, CI), lines are logged instead of a bar.
    """

    # Lightning skips hooks that are not callable; dispatching an empty one costs more than all work
    # here in a step.
    on_train_batch_start = on_before_zero_grad = None  # type: ignore[assignment]
    on_before_backward = on_after_backward = on_before_optimizer_step = None  # type: ignore[assignment]

    every_n_seconds = 10.0  # between two lines without a terminal

    def __init__(self) -> None:
        super().__init__()
        self._enabled = True
        self._bars: list[tqdm[Any]] = []
        self._shown = 0.0
        self._enlarged = 0.0  # megapixels of outputs

    def disable(self) -> None:
        """Disable the bar; called on all ranks except the first."""
        self._enabled = False

    def enable(self) -> None:
        """Enable the bar; called on the first rank."""
        self._enabled = True

    def print(self, *args: Any, **kwargs: Any) -> None:
        """Write a line above the bar."""
        tqdm.write(" ".join(map(str, args)), file=sys.stderr)

    # ------------------------------------------------------------------------------------- training

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Open the bar at the run's current step."""
        self._open("fit", _total_steps(trainer), "step", trainer.global_step)

    def on_train_batch_end(self, trainer: Trainer, *args: Any, **kwargs: Any) -> None:
        """Advance to the run's current step."""
        self._advance(trainer, trainer.global_step)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Close the bar."""
        self._close(trainer)

    # ----------------------------------------------------------------------------------- evaluation

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Open a bar over all validation images."""
        if not trainer.sanity_checking:
            self._open("validate", _total(trainer.num_val_batches), "batch")

    def on_validation_batch_end(self, trainer: Trainer, *args: Any, **kwargs: Any) -> None:
        """Advance by a batch."""
        if not trainer.sanity_checking:
            self._advance(trainer)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Close the bar."""
        if not trainer.sanity_checking:
            self._close(trainer)

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Open a bar over all test images."""
        self._open("test", _total(trainer.num_test_batches), "batch")

    on_test_batch_end, on_test_end = on_validation_batch_end, on_validation_end

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Open a bar over all images to enlarge."""
        self._enlarged = 0.0
        counts = trainer.num_predict_batches
        if _total(counts) is None:  # frames of videos
            datasets = [predicted_dataset(trainer, index) for index in range(len(counts))]
            counts = [
                getattr(dataset, "stated_frames", 0) if count == inf else count
                for dataset, count in zip(datasets, counts, strict=True)
            ]
        self._open("predict", _total(counts) or None, "image")

    def on_predict_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        *args: Any,
        **kwargs: Any,
    ) -> None:
        """Advance by a batch and its pixels."""
        if outputs is not None and "pieces" in outputs:
            self._enlarged += batch["size"][0] * batch["size"][1] / 1e6
        elif outputs is not None:  # else it could not be read
            image = output_image(outputs)
            self._enlarged += image.numel() / image.shape[-3] / 1e6
        if self._bars:
            self._bars[-1].desc = _title(batch)
        self._advance(trainer)

    on_predict_end = on_validation_end

    def on_exception(self, *args: Any, **kwargs: Any) -> None:
        """Restore the terminal."""
        while self._bars:
            self._bars.pop().close()

    # -------------------------------------------------------------------------------------- the bar

    def _open(self, title: str, total: int | None, unit: str, initial: int = 0) -> None:
        if self._enabled:
            count = len(self._bars)
            options = {
                "leave": not count,
                "position": count,
                "initial": initial,
                **bar_options(self.every_n_seconds, endless=total is None),
            }
            self._bars.append(tqdm(desc=title, total=total, unit=unit, **options))
            self._shown = time.monotonic()

    def _advance(self, trainer: Trainer, step: int | None = None) -> None:
        if not self._bars:
            return
        bar = self._bars[-1]
        bar.n = bar.n + 1 if step is None else step
        if time.monotonic() - self._shown >= bar.mininterval:
            self._show(trainer)

    def _show(self, trainer: Trainer, refresh: bool = True) -> None:
        self._shown = time.monotonic()
        values = self.get_metrics(trainer, trainer.lightning_module)
        self._bars[-1].set_postfix(values, refresh=refresh)

    def _close(self, trainer: Trainer) -> None:
        if not self._bars:
            return
        bar = self._bars[-1]
        if bar.n == bar.initial:  # there was nothing to do
            bar.leave = False
        else:
            self._show(trainer, refresh=not bar.leave)  # else `close` shows it
        self._bars.pop().close()

    def get_metrics(self, trainer: Trainer, pl_module: LightningModule) -> dict[str, Any]:
        """Return the values of ``SHOWN``, and those logged with ``prog_bar=True``."""
        metrics: dict[str, Any] = super().get_metrics(trainer, pl_module)
        metrics.pop("v_num", None)
        if trainer.training:
            logged = trainer.callback_metrics
            metrics |= {name: logged[name].item() for name in SHOWN if name in logged}
        if trainer.predicting:
            metrics["megapixels"] = round(self._enlarged, 1)
        return metrics


def _title(batch: Any) -> str:
    """Return what is enlarged, in words; of a video also where it is."""
    meta, *_ = batch.get("meta") or [{}]
    frame = meta.get("frame")
    if frame is None:
        return "predict"
    total = f" of {frame.stated:,}" if frame.stated >= frame.number else ""
    return f"predict, frame {frame.number:,}{total} of clip {frame.clip:,} of {frame.clips:,}"


def _total_steps(trainer: Trainer) -> int | None:
    limits = [] if trainer.max_steps == -1 else [trainer.max_steps]
    if trainer.max_epochs not in (None, -1) and trainer.num_training_batches != float("inf"):
        steps = -(-int(trainer.num_training_batches) // accumulated(trainer))
        limits.append(steps * int(trainer.max_epochs or 0))
    return min(limits, default=None)


def _total(batches: int | float | list[int | float]) -> int | None:
    total = sum(batches) if isinstance(batches, list) else batches
    return None if total == float("inf") else int(total)
