"""Loggers of other packages get hyperparameters and images."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from commands.run.loggers import OF_TRAINER, hyperparameters
from tests.conftest import REPO

Enlarger = Callable[..., None]
FIT = ("fit", "--config", "tiny.yaml", "--trainer.val_check_interval", 2)


EXPECTED = {
    "model": "lightning_modules.Regression",
    "model.network": "lightning_modules.EDSR",
    "model.network.blocks": 1,
    "model.lr_scheduler.gamma": 0.9,
    "data.batch_size": 4,
    "degradation": "degradations.Bicubic",
    "trainer.max_steps": 12,
    "seed_everything": 0,
    "lr": 2e-4,
}


def library(monkeypatch: pytest.MonkeyPatch, name: str, **contents: Any) -> None:
    """Put a stand-in of a module where imports find it."""
    module = ModuleType(name)
    vars(module).update(contents)
    monkeypatch.setitem(sys.modules, name, module)


class WandbRun:
    """The parts of `wandb.Run` that Lightning calls, with their documented arguments."""

    def __init__(self) -> None:
        self.config, self.logged = self, []  # type: ignore[var-annotated]
        self.values: dict[str, Any] = {}

    def update(self, d: Any, allow_val_change: bool | None = None) -> None:
        changed = {k for k, v in d.items() if self.values.get(k, v) != v}
        if changed and not allow_val_change:
            raise ValueError(f"{changed}")
        self.values |= d

    def log(self, data: Any, step: int | None = None, commit: bool | None = None) -> None:
        self.logged.append(data)


def test_wandb_gets_hyperparameters_and_images(
    tiny: Path, enlarger: Enlarger, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = WandbRun()
    library(monkeypatch, "wandb", run=None, init=lambda **_: run, Image=lambda data: data)
    library(monkeypatch, "wandb.sdk", lib=None)
    library(monkeypatch, "wandb.sdk.lib", RunDisabled=type("RunDisabled", (), {}))
    library(monkeypatch, "wandb.wandb_run", Run=type("Run", (), {}))
    monkeypatch.setattr("lightning.pytorch.loggers.wandb._WANDB_AVAILABLE", True)
    command = [*FIT, "--trainer.logger", REPO / "configs/logger/wandb.yaml"]
    enlarger(*command, "--trainer.max_steps", 4)
    assert run.values.items() >= (EXPECTED | {"trainer.max_steps": 4}).items()
    name = "images/photos/1"
    shown = {entry["trainer/global_step"]: entry[name] for entry in run.logged if name in entry}
    assert list(shown) == [1, 3]
    assert all(image.dtype == np.uint8 and image.shape[-1] == 3 for [image] in shown.values())
    enlarger(*command, "--run.change", "true", "--model.init_args.loss", "charbonnier")
    assert run.values["model.loss"] == "charbonnier"


def test_hyperparameters_of_lists_and_addresses() -> None:
    stage = {"class_path": "degradations.Blur", "init_args": {"sigma": [0.2, 3.0]}}
    shards = {"urls": ["https://user:word@host/a.tar?signature=secret"], "weights": None}
    found = hyperparameters(
        {
            "model": {"class_path": "lightning_modules.Bicubic"},
            "data": {"class_path": "D", "init_args": {"train": shards, "val": {"a": shards}}},
            "degradation": {"class_path": "C", "init_args": {"stages": [stage, stage]}},
            "seed_everything": 1,
            "trainer": dict.fromkeys(OF_TRAINER),
        }
    )
    assert found == {
        "model": "lightning_modules.Bicubic",
        "data": "D",
        "data.train.urls": "['https://host/a.tar?...']",
        "degradation": "C",
        "degradation.stages.0": "degradations.Blur",
        "degradation.stages.0.sigma": "[0.2, 3.0]",
        "degradation.stages.1": "degradations.Blur",
        "degradation.stages.1.sigma": "[0.2, 3.0]",
        "seed_everything": 1,
    }
