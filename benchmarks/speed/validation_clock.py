"""The clock of `metrics.py`, in a file of its own: a module that is run has its classes twice."""

from __future__ import annotations

import time
from types import SimpleNamespace

from lightning.pytorch import Callback, LightningModule, Trainer


class ValidationClock(Callback):
    """Seconds of training runs, and of their validations."""

    runs: list[SimpleNamespace] = []  # noqa: RUF012  (of all instances: the CLI makes them)

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start."""
        self.runs.append(SimpleNamespace(begun=time.perf_counter(), validating=0.0, count=0))

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """A validation begins."""
        self.runs[-1].validation = time.perf_counter()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """It ends."""
        if not trainer.sanity_checking:
            self.runs[-1].validating += time.perf_counter() - self.runs[-1].validation
            self.runs[-1].count += 1

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop."""
        self.runs[-1].seconds = time.perf_counter() - self.runs[-1].begun
