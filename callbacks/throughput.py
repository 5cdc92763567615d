"""The speed of training, and the shares of its time."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_only

from callbacks.evaluation import steps_done
from callbacks.timeline import OF_TRAINING, OF_WORKERS, Budget, Timeline

if TYPE_CHECKING:
    from datamodules.clock import Seconds

log = logging.getLogger(__name__)


class Throughput(Callback):
    """Log images/s over all processes, seconds per step, and the shares of a run's time.

    ``throughput/images_per_second`` and ``throughput/seconds_per_step`` are averages over the steps
    since the last number, without validation. ``throughput/share_...`` are shares of the first
    process's time since training began, without its first batch:

    - ``waiting`` for the next batch, ``degrading`` (with the copy to the device), ``stepping``,
      ``validating`` and ``saving`` checkpoints follow one another; the rest to 1 is the loop around
      them. On a GPU it is the GPU's time, by events in its queue: while waiting it was idle.
    - ``reading``, ``decoding`` and ``cropping`` are shares of the workers' concurrent time: the
      closer their sum is to 1, the closer the workers are to limiting the speed. Without workers
      they belong to the training process, and do not count as waiting.

    The host waits for the device once an interval.

    Args:
        every_n_steps: Steps between two numbers; ``trainer.log_every_n_steps`` by default.

    Raises:
        ValueError: If ``every_n_steps`` is below 1.
    """

    # Not dispatched, see `callbacks/progress.py`.
    on_before_zero_grad = on_before_optimizer_step = None  # type: ignore[assignment]
    on_before_backward = on_after_backward = None  # type: ignore[assignment]

    def __init__(self, every_n_steps: int | None = None) -> None:
        super().__init__()
        if every_n_steps is not None and every_n_steps < 1:
            raise ValueError(
                f"`every_n_steps` of Throughput is {every_n_steps}; it must be at least 1"
            )
        self.every_n_steps = every_n_steps
        self._line: Timeline | None = None  # None before the end of the first batch
        self._budget = Budget(0)
        self._step = self._images = 0  # at the interval's start; of this process since then
        self._saved = False  # whether a checkpoint was written in this batch
        self._listens = False  # whether the data module reports each batch

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Make the data module report each batch; the first one only warms up."""
        self._line = None
        data: Any = getattr(trainer, "datamodule", None)
        self._listens = hasattr(data, "listener")
        if self._listens:
            data.listener = self

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Mark the begin of the step."""
        self._mark("other" if self._listens else "waiting")

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Count the images; log at the end of an interval."""
        # The time of writing a checkpoint is unknown, except that it precedes a batch's step.
        self._mark("saving" if self._saved else "stepping")
        self._budget.count(saved=self._saved)
        self._saved = False
        self._images += len(batch["key"])
        step = steps_done(trainer, pl_module)
        every_n = self.every_n_steps or trainer.log_every_n_steps  # type: ignore[attr-defined]
        if self._line is None:
            self._line = Timeline(trainer.strategy.root_device)
            self._budget = Budget(getattr(trainer.train_dataloader, "num_workers", 0))
            self._step, self._images = step, 0
        elif step - self._step >= max(every_n, 1):
            self._report(trainer, self._line, step)
            self._step, self._images = step, 0

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Mark the begin of validation."""
        self._mark("other")

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Mark the end of validation."""
        self._mark("validating")

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Note that a checkpoint is written."""
        self._saved = True

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log the shares of the whole run."""
        if self._line is None:
            return
        self._budget.add(self._line.read())
        self._log(trainer, self._shares(), steps_done(trainer, pl_module))
        if trainer.is_global_zero and (sentence := self._budget.sentence()):
            log.info("%s", sentence)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Stop the reports of the data module."""
        data: Any = getattr(trainer, "datamodule", None)
        if getattr(data, "listener", None) is self:
            data.listener = None

    # -------------------------------------------------------------- what the data module tells of

    def arrived(self, seconds: list[Seconds]) -> None:
        """Count a batch from the loader, with the seconds that its workers spent on it."""
        self._mark("waiting")
        if self._line is not None:
            self._budget.add_prepared(seconds)

    def degraded(self) -> None:
        """Mark that the batch is on the device, with its LR."""
        self._mark("degrading")

    # -------------------------------------------------------------------------------- the numbers

    def _mark(self, part: str) -> None:
        if self._line is not None:
            self._line.mark(part)

    def _report(self, trainer: Trainer, line: Timeline, step: int) -> None:
        spent = line.read()
        self._budget.add(spent)
        seconds = sum(spent.values()) - spent.get("validating", 0.0)
        values = {
            # All processes have equally many images.
            "throughput/images_per_second": self._images * trainer.world_size / seconds,
            "throughput/seconds_per_step": seconds / (step - self._step),
        }
        self._log(trainer, {**values, **self._shares()}, step)

    def _shares(self) -> dict[str, float]:
        shares = self._budget.shares()
        known = (part for part in (*OF_TRAINING, *OF_WORKERS) if part in shares)
        return {f"throughput/share_{part}": shares[part] for part in known}

    @rank_zero_only
    def _log(self, trainer: Trainer, values: dict[str, float], step: int) -> None:
        # Not with pl_module.log, which would cost time at every step.
        for logger in trainer.loggers:
            logger.log_metrics(values, step=step)
