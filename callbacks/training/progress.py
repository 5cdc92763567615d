"""The progress of a run: Lightning's bar in a terminal, a line a minute in a log file."""

from __future__ import annotations

import logging
import sys
import time
from datetime import timedelta
from math import inf, isfinite
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ProgressBar, TQDMProgressBar

from callbacks.evaluation import accumulated, predicted_dataset

log = logging.getLogger(__name__)
EVERY = 60.0  # seconds between two lines


def progress_bar() -> ProgressBar:
    """Return the bar of a terminal, or its stand-in for SLURM and CI."""
    has_terminal = sys.stdout is not None and sys.stdout.isatty()  # a service may have no output
    return Bar() if has_terminal else Lines()


class Bar(TQDMProgressBar):
    """Lightning's bar, with the step of the run, and the loss as the loggers last read it.

    To read the loss in each step, the host would wait for a GPU.
    """

    def __init__(self) -> None:
        super().__init__()
        self._loss: dict[str, str] = {}

    def get_metrics(self, trainer: Trainer, pl_module: LightningModule) -> dict[str, Any]:
        """Return what follows the bar."""
        metrics: dict[str, Any] = super().get_metrics(trainer, pl_module)
        metrics.pop("v_num", None)
        loss = trainer.callback_metrics.get("train/loss")
        is_logged = not trainer.global_step % max(1, vars(trainer)["log_every_n_steps"])
        if loss is not None and is_logged:
            self._loss = {"loss": f"{loss:.3g}"}
        return {"step": trainer.global_step, **self._loss, **metrics}

    @property
    def total_predict_batches_current_dataloader(self) -> int | float:
        """Batches of this loader; of videos the frames that their files state."""
        return predicted_batches(self.trainer)[self._current_eval_dataloader_idx or 0]


class Lines(ProgressBar):
    """A line of the log each minute: steps or batches done, their pace, and the time left."""

    # Lightning skips hooks that are not callable; dispatching an empty one costs more than all work
    # here in a step.
    on_train_batch_start = on_before_zero_grad = None  # type: ignore[assignment]
    on_before_backward = on_after_backward = on_before_optimizer_step = None  # type: ignore[assignment]

    def __init__(self) -> None:
        super().__init__()
        self._enabled = True
        self._predicted: list[int | float] = []
        self._marks: dict[str, tuple[int, float]] = {}  # what was done at the last line, and when

    def disable(self) -> None:
        """Log nothing; Lightning calls this on all ranks except the first."""
        self._enabled = False

    def enable(self) -> None:
        """Log again."""
        self._enabled = True

    def on_train_batch_end(self, trainer: Trainer, *args: Any, **kwargs: Any) -> None:
        """Count the steps of the run."""
        self._count("fit: step", trainer.global_step, _total_steps(trainer))

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Note how much there is to enlarge."""
        self._predicted = predicted_batches(trainer)

    def on_predict_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Count the batches of all loaders."""
        batches = trainer.num_test_batches if trainer.testing else trainer.num_val_batches
        if trainer.predicting:
            batches = self._predicted
        stage: Any = trainer.state.stage
        done = int(sum(batches[:dataloader_idx])) + batch_idx + 1
        self._count(f"{stage.value}: batch", done, sum(batches))

    on_validation_batch_end = on_test_batch_end = on_predict_batch_end

    def _count(self, what: str, done: int, total: float) -> None:
        """Log progress if ``EVERY`` seconds have passed since the last line.

        Args:
            what: Command and unit, such as ``fit: step``.
            done: Number of units that are done.
            total: Number of all, or infinity.
        """
        now = time.monotonic()
        before, since = self._marks.setdefault(what, (done, now))
        if done <= before:  # a new pass
            self._marks[what] = (done, now)
        elif now - since >= EVERY and self._enabled:
            self._marks[what] = (done, now)
            pace = (done - before) / (now - since)
            line = f"{what} {done:,} of {total:,.0f}, {pace:.3g} a second"
            if isfinite(total):
                line += f", {timedelta(seconds=round((total - done) / pace))} left"
            log.info("%s", line)


def predicted_batches(trainer: Trainer) -> list[int | float]:
    """Return the batches of each loader of ``predict``; of videos the frames that files state.

    Args:
        trainer: The trainer, while it predicts.
    """
    counts = trainer.num_predict_batches
    datasets = [predicted_dataset(trainer, index) for index in range(len(counts))]
    return [
        getattr(dataset, "stated_frames", count) if count == inf else count
        for dataset, count in zip(datasets, counts, strict=True)
    ]


def _total_steps(trainer: Trainer) -> float:
    """Return the step at which ``fit`` ends; infinity if no limit is set."""
    # `estimated_stepping_batches` refuses schedules of accumulation.
    limits = [inf if trainer.max_steps == -1 else trainer.max_steps]
    if trainer.max_epochs not in (None, -1):
        steps = -(-trainer.num_training_batches // accumulated(trainer))
        limits.append(steps * int(trainer.max_epochs or 0))
    return min(limits)
