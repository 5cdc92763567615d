"""Do what ``fit`` does up to its first step, on all processes, and print a table."""

from __future__ import annotations

import logging
import shutil
import time
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from rich.console import Console
from rich.table import Table

from commands.distributed.heartbeat import Ranks
from commands.distributed.preflight import Facts
from commands.signals import Stopped

log = logging.getLogger(__name__)

GIGABYTE = 2**30
SIGNAL = "signal"  # not shown


class Checked(Exception):  # noqa: N818  (no error)
    """Raised instead of the first step: everything before it succeeded."""


class Check(Callback):
    """Check the first batch and its gradients on each process, then end.

    Args:
        ranks: The processes of this run.
    """

    def __init__(self, ranks: Ranks) -> None:
        self.ranks = ranks
        self._began = time.monotonic()
        self._facts: Facts = {}

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
        images = {"HR": "hr", "LR": "lr", "reference": "ref", "latent": "latent"}
        self._facts = {
            "device": str(trainer.strategy.root_device),
            "first image": batch["key"][0],
            "crops": len(batch["key"]),
            **{
                name: "x".join(map(str, batch[key].shape[-2:]))
                for name, key in images.items()
                if key in batch
            },
            "seconds to the first batch": f"{time.monotonic() - self._began:.1f}",
        }

    def on_after_backward(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Print the table of all processes.

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
        folder = Path(trainer.default_root_dir)
        place = next(path for path in (folder, *folder.resolve().parents) if path.exists())
        self._facts["free disk, GB"] = f"{shutil.disk_usage(place).free / GIGABYTE:.1f}"
        if torch.cuda.is_available():
            memory = torch.cuda.max_memory_allocated() / GIGABYTE
            self._facts["memory of the device, GB"] = f"{memory:.1f}"
        everyone = self.ranks.gather({**self._facts, SIGNAL: self.ranks.signals.received})
        signals = [facts.pop(SIGNAL) for facts in everyone]
        if any(signals):
            raise Stopped(max(signals), "before its end")
        if trainer.is_global_zero:
            _print(everyone)
            log.info("all is well: the same command with fit trains")
        raise Checked


def _print(everyone: list[Facts]) -> None:
    table = Table()
    table.add_column("rank", justify="right")
    names = ["host", *(name for name in everyone[0] if name != "host")]
    for name in names:
        table.add_column(name, overflow="fold")  # a key is never cut
    for rank, facts in enumerate(everyone):
        table.add_row(str(rank), *(str(facts[name]) for name in names))
    Console().print(table)
