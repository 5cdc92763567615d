"""A bug in a plug-in's optimiser or schedule stays a bug."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.optim import Adam
from torch.optim.lr_scheduler import LRScheduler

from tests.lightning_modules.tiny import Model


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
