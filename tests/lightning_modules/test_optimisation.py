"""Optimisers and schedules that cannot be: a sentence that names the key; a bug stays a bug."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer
from torch.optim import SGD, Adam
from torch.optim.lr_scheduler import CosineAnnealingLR, LRScheduler, OneCycleLR, StepLR
from torch.utils.data import DataLoader

from tests.datamodules.memory import trainer
from tests.lightning_modules.judged import Judged
from tests.lightning_modules.tiny import Model, batch_of


@pytest.mark.parametrize(
    ("optimizer", "said"),
    [
        (partial(Adam, lr=-1), "Invalid learning rate: -1"),
        (partial(Adam, betas=(1, 2)), "Invalid beta parameter"),
        (partial(Adam, fused=True, foreach=True), "`fused` and `foreach` cannot be"),
        (partial(SGD, nesterov=True), "Nesterov momentum requires"),
    ],
)
def test_what_an_optimiser_refuses(optimizer: Any, said: str) -> None:
    with pytest.raises(ValueError, match=rf"^model\.init_args\.optimizer: {said}"):
        Model(optimizer=optimizer).configure_optimizers()


def test_what_a_discriminator_s_optimiser_refuses() -> None:
    model: Any = Judged()
    model.discriminator_optimizer = partial(Adam, lr=-1)
    with pytest.raises(ValueError, match=r"^model\.init_args\.discriminator_optimizer: Invalid"):
        model.configure_optimizers()


@pytest.mark.parametrize(
    ("schedule", "said"),
    [
        (partial(OneCycleLR, max_lr=1), "You must define either total_steps"),
        (LRScheduler, "get_lr is missing: its class is abstract, set a subclass of it"),
    ],
)
def test_what_a_schedule_refuses(schedule: Any, said: str) -> None:
    with pytest.raises(ValueError, match=rf"^model\.init_args\.lr_scheduler: {said}"):
        Model(lr_scheduler=schedule).configure_optimizers()


def fit(
    root: Path, schedule: Any, model: Any = None, ckpt_path: Path | None = None, **options: Any
) -> Trainer:
    model = model or Model()
    model._make_schedule = schedule
    batches = DataLoader([batch_of(2, side=4, name=f"b{i}") for i in range(5)], batch_size=None)
    run = trainer(root, **options)
    run.fit(model, batches, ckpt_path=ckpt_path, weights_only=False)
    return run


@pytest.mark.parametrize("kind", [Model, Judged])
@pytest.mark.parametrize(
    "schedule", [partial(StepLR, step_size=0), partial(CosineAnnealingLR, T_max=0)]
)
def test_a_schedule_that_cannot_be_stepped(tmp_path: Path, schedule: Any, kind: Any) -> None:
    message = r"^model\.init_args\.lr_scheduler: .*zero: one of its arguments is 0"
    with pytest.raises(ValueError, match=message):
        fit(tmp_path, schedule, kind(), max_steps=2)


def test_a_schedule_that_ends_before_the_training(tmp_path: Path) -> None:
    short = partial(OneCycleLR, max_lr=1e-4, total_steps=3)
    with pytest.raises(ValueError, match=r"OneCycleLR, ends after 3 steps, and trainer\.max_steps"):
        fit(tmp_path, short, max_steps=4)
    assert fit(tmp_path, short, max_steps=3).global_step == 3
    with pytest.raises(ValueError, match=r"lr_scheduler: Tried to step 4 times"):
        fit(tmp_path, short, max_epochs=1)


def test_a_schedule_that_keeps_its_last_rate_may_end_before(tmp_path: Path) -> None:
    class Held(LRScheduler):
        total_steps = 3

        def get_lr(self) -> list[float]:  # type: ignore[override]
            return [1e-4 * min(self.last_epoch, self.total_steps)]

    assert fit(tmp_path, Held, max_steps=4).global_step == 4


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
