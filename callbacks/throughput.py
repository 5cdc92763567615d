"""How fast training goes, and how much of it is waiting for pictures."""

from __future__ import annotations

import time
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_only

from callbacks.base import steps_done


class Throughput(Callback):
    """Log images/s over all processes, seconds a step, and the share of time between steps.

    ``throughput/images_per_second``, ``throughput/seconds_per_step`` and
    ``throughput/data_share``: the share of the time from the end of one batch to the start of the
    next, in which the next one is fetched, moved and degraded (and checkpoints are written). A GPU
    works on while the host waits, so even a large share need not mean that it is idle. Validation
    is left out. The device is waited for once an interval.

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
        self._begun = 0.0  # start of the interval; 0 before the first batch is done
        self._step = 0  # at the start of the interval
        self._images = 0  # of this process, since the start of the interval
        self._waited = 0.0
        self._ended = 0.0  # the end of the latest batch
        self._paused = 0.0  # the start of the latest validation

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The first batch only warms up: workers start, kernels are compiled."""
        self._begun = 0.0

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Count the time since the end of the batch before."""
        self._waited += time.perf_counter() - self._ended

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Count the images; log at the end of an interval."""
        self._images += len(batch["key"])
        step = steps_done(trainer, pl_module)
        every_n = self.every_n_steps or trainer.log_every_n_steps  # type: ignore[attr-defined]
        if self._begun == 0.0:
            self._begin(step, _now(trainer))
        elif step - self._step >= max(every_n, 1):
            now = _now(trainer)
            self._log(trainer, step, now - self._begun)
            self._begin(step, now)
        self._ended = time.perf_counter()

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop the clock."""
        self._paused = _now(trainer)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Let the clock go on where it stopped."""
        pause = time.perf_counter() - self._paused
        self._begun += pause if self._begun else 0.0
        self._ended += pause

    def _begin(self, step: int, now: float) -> None:
        self._begun, self._step, self._images, self._waited = now, step, 0, 0.0

    @rank_zero_only
    def _log(self, trainer: Trainer, step: int, seconds: float) -> None:
        values = {
            # Every process has as many images: their number is global by design.
            "throughput/images_per_second": self._images * trainer.world_size / seconds,
            "throughput/seconds_per_step": seconds / (step - self._step),
            "throughput/data_share": self._waited / seconds,
        }
        # Not by pl_module.log, which would cost something at every step.
        for logger in trainer.loggers:
            logger.log_metrics(values, step=step)


def _now(trainer: Trainer) -> float:
    if trainer.strategy.root_device.type == "cuda":
        torch.cuda.synchronize(trainer.strategy.root_device)
    return time.perf_counter()
