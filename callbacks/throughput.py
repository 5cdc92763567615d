"""How fast training goes, and what its time goes into."""

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
    """Log images/s over all processes, seconds a step, and the shares of a run's time.

    ``throughput/images_per_second`` and ``throughput/seconds_per_step`` are of the steps since the
    number before, without validation. ``throughput/share_...`` are of all the time since training
    began in this process, its first batch left out, and of the first process:

    - ``waiting`` for the next batch, ``degrading`` (with the copy to the device), ``stepping``,
      ``validating`` and ``saving`` checkpoints come one after the other; what is missing to 1 is
      the loop around them. On a GPU they are its own time, by events in its queue: it had nothing
      to do while it was waiting.
    - ``reading``, ``decoding`` and ``cropping`` are of the workers' time, who work beside that: the
      closer to 1 they are together, the nearer the workers are to being the limit. Without workers
      they are of the training process, which does not count them as waiting.

    The device is waited for once an interval.

    Args:
        every_n_steps: Steps from one number to the next; ``trainer.log_every_n_steps`` by default.

    Raises:
        ValueError: ``every_n_steps`` is below 1.
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
        self._line: Timeline | None = None  # from the end of the first batch on
        self._budget = Budget(0)
        self._step = self._images = 0  # at the interval's start; of this process since then
        self._saved = False  # a checkpoint was written in this batch
        self._listens = False  # the data module tells of each batch

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Ask the data module to tell of each batch; the first one only warms up."""
        self._line = None
        data: Any = getattr(trainer, "datamodule", None)
        self._listens = hasattr(data, "listener")
        if self._listens:
            data.listener = self

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """The step begins."""
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
        # Nothing says when a checkpoint is written, but it is before the step of a batch.
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
        """Validation begins."""
        self._mark("other")

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Validation ends."""
        self._mark("validating")

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Note that one is written."""
        self._saved = True

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log the shares of the whole run, and say them."""
        if self._line is None:
            return
        self._budget.add(self._line.read())
        self._log(trainer, self._shares(), steps_done(trainer, pl_module))
        if trainer.is_global_zero and (sentence := self._budget.sentence()):
            log.info("%s", sentence)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Listen no more."""
        data: Any = getattr(trainer, "datamodule", None)
        if getattr(data, "listener", None) is self:
            data.listener = None

    # -------------------------------------------------------------- what the data module tells of

    def arrived(self, seconds: list[Seconds]) -> None:
        """A batch came out of the loader, and its workers took so long for it."""
        self._mark("waiting")
        if self._line is not None:
            self._budget.add_prepared(seconds)

    def degraded(self) -> None:
        """It is on the device, with its LR."""
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
            # Every process has as many images: their number is global by design.
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
        # Not by pl_module.log, which would cost something at every step.
        for logger in trainer.loggers:
            logger.log_metrics(values, step=step)
