"""A callback that notes what a test of a whole run cannot see from outside."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch.distributed.tensor import DTensor

from files.weights import fingerprint


class Watch(Callback):
    """Write `watch.RANK.json`: whether training draws numbers, and the weights in the end."""

    draws = False
    state = torch.empty(0)

    def on_train_batch_start(self, *_: Any) -> None:
        self.state = torch.get_rng_state()

    def on_train_batch_end(self, *_: Any) -> None:
        self.draws = self.draws or not torch.equal(self.state, torch.get_rng_state())

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        state = pl_module.state_dict()
        sharded = any(isinstance(value, DTensor) for value in state.values())
        found = {"draws": self.draws, "weights": None if sharded else fingerprint(state)}
        Path(f"watch.{trainer.global_rank}.json").write_text(json.dumps(found))
