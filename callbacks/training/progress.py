"""The progress of a run: a bar in a terminal, occasional lines in a log file."""

from __future__ import annotations

import logging
import sys
import time
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ProgressBar
from tqdm import tqdm

from callbacks.evaluation import accumulated

log = logging.getLogger(__name__)
REFRESH = 0.5  # seconds; reading the values for the bar waits for the device


class Progress(ProgressBar):
    """Show steps done, steps per second, time left and the latest logged values.

    Training counts steps of the whole run, not batches of an epoch: after a resume the bar
    continues. If the output is not a terminal (SLURM, CI), lines are logged instead of a bar.

    Args:
        every_n_seconds: Time between two lines without a terminal.
    """

    # Lightning skips hooks that are not callable; dispatching an empty one costs more than all work
    # here in a step.
    on_train_batch_start = on_before_zero_grad = None  # type: ignore[assignment]
    on_before_backward = on_after_backward = on_before_optimizer_step = None  # type: ignore[assignment]

    def __init__(self, every_n_seconds: float = 10.0) -> None:
        super().__init__()
        self.every_n_seconds = every_n_seconds
        self._enabled = True
        self._terminal = sys.stderr.isatty()
        self._bars: list[tqdm[Any]] = []
        self._shown = 0.0

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

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
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

    def on_validation_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, *args: Any, **kwargs: Any
    ) -> None:
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
        self._open("predict", _total(trainer.num_predict_batches), "image")

    on_predict_batch_end, on_predict_end = on_validation_batch_end, on_validation_end

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Restore the terminal."""
        while self._bars:
            self._bars.pop().close()

    # -------------------------------------------------------------------------------------- the bar

    def _open(self, title: str, total: int | None, unit: str, initial: int = 0) -> None:
        if not self._enabled:
            return
        bar = tqdm(
            desc=title,
            total=total,
            initial=initial,
            unit=unit,
            leave=not self._bars,
            position=len(self._bars),
            disable=not self._terminal,
            dynamic_ncols=True,
            mininterval=REFRESH,
        )
        # A disabled bar does not keep these, and a log line needs them.
        bar.n, bar.initial, bar.total, bar.desc, bar.unit = initial, initial, total, title, unit
        bar.start_t = time.time()
        self._bars.append(bar)
        self._shown = time.monotonic()

    def _advance(self, trainer: Trainer, to: int | None = None) -> None:
        if not self._bars:
            return
        bar = self._bars[-1]
        bar.n = bar.n + 1 if to is None else to
        now = time.monotonic()
        if now - self._shown >= (REFRESH if self._terminal else self.every_n_seconds):
            self._show(trainer)

    def _show(self, trainer: Trainer) -> None:
        bar = self._bars[-1]
        self._shown = time.monotonic()
        values = ", ".join(
            f"{k} {_short(v)}"
            for k, v in self.get_metrics(trainer, trainer.lightning_module).items()
        )
        if self._terminal:
            bar.set_postfix_str(values, refresh=False)
            bar.refresh()
            return
        elapsed = max(time.time() - bar.start_t, 1e-6)
        rate = (bar.n - bar.initial) / elapsed
        left = f", {_clock((bar.total - bar.n) / rate)} left" if bar.total and rate else ""
        log.info(
            "%s: %s %d%s, %.2f a second%s%s",
            *(
                bar.desc.removesuffix(": "),
                bar.unit,
                bar.n,
                f" of {bar.total}" if bar.total else "",
            ),
            *(rate, left, f", {values}" if values else ""),
        )

    def _close(self, trainer: Trainer) -> None:
        if self._bars:
            if self._bars[-1].n == self._bars[-1].initial:  # there was nothing to do
                self._bars[-1].leave = False
            else:
                self._show(trainer)
            self._bars.pop().close()

    def get_metrics(self, trainer: Trainer, pl_module: LightningModule) -> dict[str, Any]:
        """Return the values logged with ``prog_bar=True``."""
        metrics: dict[str, Any] = super().get_metrics(trainer, pl_module)
        metrics.pop("v_num", None)
        return metrics


def _total_steps(trainer: Trainer) -> int | None:
    limits = [] if trainer.max_steps == -1 else [trainer.max_steps]
    if trainer.max_epochs not in (None, -1) and trainer.num_training_batches != float("inf"):
        steps = -(-int(trainer.num_training_batches) // accumulated(trainer))
        limits.append(steps * int(trainer.max_epochs or 0))
    return min(limits, default=None)


def _total(batches: int | float | list[int | float]) -> int | None:
    total = sum(batches) if isinstance(batches, list) else batches
    return None if total == float("inf") else int(total)


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"
