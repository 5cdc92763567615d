"""A callback that notes what a test of a whole run cannot see from outside."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.nn.utils import get_total_norm

from files.weights import fingerprint


class Watch(Callback):
    """Write `watch.RANK.json`: whether training draws numbers; what it made of the weights.

    Args:
        stop: Step after which the last process gets a SIGTERM; None for no signal.
    """

    draws = False
    state = torch.empty(0)

    def __init__(self, stop: int | None = None) -> None:
        self.stop = stop
        self.before: list[Tensor] = []  # the weights

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.before = [parameter.detach().clone() for parameter in pl_module.parameters()]

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        pl_module.on_train_batch_start(batch, batch_idx)  # seeds, and will once more
        self.state = torch.get_rng_state()

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        self.draws = self.draws or not torch.equal(self.state, torch.get_rng_state())
        if trainer.global_step == self.stop and trainer.global_rank == trainer.world_size - 1:
            os.kill(os.getpid(), signal.SIGTERM)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        state = pl_module.state_dict()
        found: dict[str, Any] = {"draws": self.draws, "weights": None}
        if not any(isinstance(value, DTensor) for value in state.values()):
            pairs = zip(pl_module.parameters(), self.before, strict=True)
            moved = get_total_norm([after.detach() - before for after, before in pairs])
            found |= {"weights": fingerprint(state), "moved": moved.item()}
        Path(f"watch.{trainer.global_rank}.json").write_text(json.dumps(found))
