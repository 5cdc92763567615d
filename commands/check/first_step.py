"""Do what ``fit`` does up to its first step, on all processes, and tell what each of them found."""

from __future__ import annotations

import logging
import socket
import time
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from callbacks.evaluation import gather
from commands.check.findings import Finding, print_findings
from commands.signals import Signals, Stopped

log = logging.getLogger(__name__)

IMAGES = {"HR": "hr", "LR": "lr", "reference": "ref", "latent": "latent"}


class Checked(Exception):  # noqa: N818  (no error)
    """Raised instead of the first step: everything before it succeeded."""


class Check(Callback):
    """Check the first batch and its gradients on each process, then end.

    Args:
        signals: The signals of this process.
    """

    def __init__(self, signals: Signals) -> None:
        self.signals = signals
        self._began = time.monotonic()
        self._batch = ""

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Report that there was no batch to check."""
        log.info(
            "all is well, and nothing is left to train: trainer.max_steps or max_epochs ends the "
            "run at step %d",
            trainer.global_step,
        )

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Note the contents of the first batch."""
        keys = batch["key"]
        sizes = []
        for name, key in IMAGES.items():
            if key in batch:
                sizes.append(f"{name} {'x'.join(map(str, batch[key].shape[-2:]))}")
        self._batch = (
            f"{len(keys)} crops on {trainer.strategy.root_device} after "
            f"{time.monotonic() - self._began:.1f} s: {', '.join(sizes)}; the first of {keys[0]}"
        )

    def on_after_backward(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Check the gradients, print what all processes found, and end.

        Raises:
            Checked: When all is well.
            Stopped: After a signal.
            ValueError: If a gradient is not finite.
        """
        bad = [
            name
            for name, p in pl_module.named_parameters()
            if p.grad is not None and not bool(torch.isfinite(p.grad).all())
        ]
        if bad:
            raise ValueError(
                f"the gradients of the first batch are not finite ({', '.join(bad[:3])}): check "
                "the initial weights and trainer.precision"
            )
        if torch.cuda.is_available():
            self._batch += (
                f"; {torch.cuda.max_memory_allocated() / 2**30:.1f} GB of the device's memory"
            )
        everyone = gather((socket.gethostname(), self._batch, self.signals.received))
        signal = max(received for _, _, received in everyone)
        if signal:
            raise Stopped(signal, "before its end")
        if trainer.is_global_zero:
            findings = []
            for rank, (host, batch, _) in enumerate(everyone):
                findings.append(Finding("ok", f"rank {rank} on {host}", batch))
            print_findings(findings)
            log.info("all is well: the same command with fit trains")
        raise Checked
