"""Throughput: where the time of training goes, in one line at its end."""

from __future__ import annotations

import itertools
import logging
import time
from collections import defaultdict
from collections.abc import Iterable
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from files.batch import Seconds

log = logging.getLogger(__name__)
OF_TRAINING = ("waiting", "degrading", "stepping", "validating")  # beside "other"
OF_WORKERS = ("reading", "decoding", "cropping")


class Timeline:
    """Seconds between marks, by the clock of the training device.

    On a GPU marks are events in its queue: the host, which runs ahead, does not wait for them until
    they are read.

    Args:
        device: The training device.
    """

    def __init__(self, device: torch.device) -> None:
        self._stream: Any = torch.cuda.current_stream(device) if device.type == "cuda" else None
        self._marks: list[tuple[str, Any]] = [("", self._now())]

    def mark(self, part: str) -> None:
        """Assign the time since the last mark to ``part``."""
        self._marks.append((part, self._now()))

    def read(self) -> dict[str, float]:
        """Return seconds by part since the last reading; waits for the marks."""
        if self._stream is not None:
            self._marks[-1][1].synchronize()
        spent: defaultdict[str, float] = defaultdict(float)
        for (_, begin), (part, end) in itertools.pairwise(self._marks):
            spent[part] += end - begin if self._stream is None else begin.elapsed_time(end) / 1000
        self._marks = self._marks[-1:]
        return spent

    def _now(self) -> Any:
        if self._stream is None:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        return self._stream.record_event(event)


class Budget:
    """Seconds of a run so far, by part.

    Args:
        workers: Processes that prepare batches; 0 if this one does.
    """

    def __init__(self, workers: int) -> None:
        self.workers = workers
        self._spent: defaultdict[str, float] = defaultdict(float)  # by this process, in sequence
        self._prepared: defaultdict[str, float] = defaultdict(float)  # by workers, concurrently

    def add(self, spent: dict[str, float]) -> None:
        """Add the seconds of a timeline."""
        for part, seconds in spent.items():
            self._spent[part] += seconds

    def add_prepared(self, batch: Iterable[Seconds]) -> None:
        """Add the seconds that workers spent on a batch."""
        for piece in batch:
            for part, seconds in piece._asdict().items():
                self._prepared[part] += seconds

    def shares(self) -> dict[str, float]:
        """Return shares of all the time by part; those of workers are shares of their time."""
        total = sum(self._spent.values())
        if not total:
            return {}
        seconds = {"waiting": 0.0, **self._spent}
        if not self.workers:
            seconds["waiting"] = max(seconds["waiting"] - sum(self._prepared.values()), 0.0)
        for part, of_all_workers in self._prepared.items():
            seconds[part] = of_all_workers / max(self.workers, 1)
        return {part: spent / total for part, spent in seconds.items()}

    def sentence(self) -> str:
        """Return the shares in one line; empty if nothing was timed, as in a run of one step."""
        shares = self.shares()
        if not shares:
            return ""
        sentence = f"time of training: {_words(shares, OF_TRAINING)}"
        of_workers = _words(shares, OF_WORKERS)
        if not of_workers:
            return sentence
        if not self.workers:
            return f"{sentence}, {of_workers}"
        workers = f"{self.workers} workers" if self.workers > 1 else "the worker"
        return f"{sentence}; {workers}, beside it: {of_workers}"


def _words(shares: dict[str, float], parts: Iterable[str]) -> str:
    return ", ".join(f"{part} {shares[part]:.1%}" for part in parts if shares.get(part))


class Throughput(Callback):
    """Log the shares of a run's time at its end, in the line ``time of training``.

    They are shares of the first process's time since training began, without its first batch:

    - ``waiting`` for the next batch, ``degrading`` (with the copy to the device), ``stepping`` and
      ``validating`` follow one another; callbacks and checkpoints count as steps, and the rest to 1
      is the loop around them. On a GPU it is the GPU's time, by events in its queue: while waiting
      it was idle.
    - ``reading``, ``decoding`` and ``cropping`` are shares of the workers' concurrent time: the
      closer their sum is to 1, the closer the workers are to limiting the speed. Without workers
      they belong to the training process, and do not count as waiting.

    The host waits for the device once in ``trainer.log_every_n_steps``.
    """

    # Not dispatched, see `callbacks/training/progress.py`.
    on_before_zero_grad = on_before_optimizer_step = None  # type: ignore[assignment]
    on_before_backward = on_after_backward = None  # type: ignore[assignment]

    def __init__(self) -> None:
        super().__init__()
        self._line: Timeline | None = None  # None before the end of the first batch
        self._budget = Budget(0)
        self._step = 0  # of the last reading

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Make the data module report each batch; the first one only warms up."""
        self._line = None
        data: Any = getattr(trainer, "datamodule", None)
        if hasattr(data, "listener"):
            data.listener = self

    def on_train_batch_start(self, *args: Any, **kwargs: Any) -> None:
        """Mark the begin of the step; a loader that reports nothing has been waited for."""
        self._mark("waiting")

    def on_train_batch_end(self, trainer: Trainer, *args: Any, **kwargs: Any) -> None:
        """Mark the end of the step; read the marks now and then, so that they do not pile up."""
        self._mark("stepping")
        if self._line is None:
            self._line = Timeline(trainer.strategy.root_device)
            self._budget = Budget(getattr(trainer.train_dataloader, "num_workers", 0))
            self._step = trainer.global_step
        elif trainer.global_step - self._step >= max(vars(trainer)["log_every_n_steps"], 1):
            self._budget.add(self._line.read())
            self._step = trainer.global_step

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Mark the begin of validation."""
        self._mark("other")

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Mark the end of validation."""
        self._mark("validating")

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log the shares of the whole run."""
        if self._line is None:
            return
        self._budget.add(self._line.read())
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

    def _mark(self, part: str) -> None:
        if self._line is not None:
            self._line.mark(part)
