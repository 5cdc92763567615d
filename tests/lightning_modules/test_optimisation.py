"""Optimisers and schedules that cannot be: a sentence that names the key; a bug stays a bug."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer
from torch.optim import Adam
from torch.optim.lr_scheduler import LRScheduler, OneCycleLR
from torch.utils.data import DataLoader

from tests.datamodules.memory import trainer
from tests.lightning_modules.tiny import Model, batch_of


def fit(
    root: Path, schedule: Any, model: Any = None, ckpt_path: Path | None = None, **options: Any
) -> Trainer:
    model = model or Model()
    model._make_schedule = schedule
    batches = DataLoader([batch_of(2, side=4, name=f"b{i}") for i in range(5)], batch_size=None)
    run = trainer(root, **options)
    run.fit(model, batches, ckpt_path=ckpt_path, weights_only=False)
    return run


def test_a_resumed_schedule_keeps_its_length(tmp_path: Path) -> None:
    run = fit(tmp_path, partial(OneCycleLR, max_lr=1e-4, total_steps=3), max_steps=3)
    run.save_checkpoint(tmp_path / "3.ckpt")
    longer = partial(OneCycleLR, max_lr=1e-4, total_steps=5)
    with pytest.raises(ValueError, match=r"ends after 3 steps, .* start another run from its wei"):
        fit(tmp_path, longer, ckpt_path=tmp_path / "3.ckpt", max_steps=5)


def test_a_bug_in_a_plug_in_s_schedule_is_no_refusal() -> None:
    class Forgets(LRScheduler):
        def get_lr(self) -> list[float]:
            return None  # type: ignore[return-value]

    with pytest.raises(TypeError, match="NoneType"):
        Model(lr_scheduler=Forgets).configure_optimizers()


def test_a_bug_in_a_plug_in_is_no_refusal() -> None:
    def buggy(parameters: Any) -> torch.optim.Optimizer:
        return Adam(parameters, lr=int("x"))

    with pytest.raises(ValueError, match=r"^invalid literal"):
        Model(optimizer=buggy).configure_optimizers()
