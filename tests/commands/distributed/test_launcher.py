"""Parts of Lightning that cannot run here, and its own decisions that are overridden."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
from jsonargparse import Namespace
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import (
    BatchSizeFinder,
    LearningRateFinder,
    ModelPruning,
    WeightAveraging,
)
from lightning.pytorch.strategies import DDPStrategy, DeepSpeedStrategy

from commands.distributed.launch import (
    COUNTS,
    DDP,
    FullySharded,
    own_strategy,
    refuse_unsupported,
)
from commands.errors import ConfigurationError
from files.waits import WAITS

# ---------------------------------------------------------------------------------- what is refused


def of_trainer(**arguments: Any) -> Namespace:
    """Return a trainer's arguments as the command line has them."""
    unset = dict.fromkeys((*COUNTS, "gradient_clip_val", "max_time", "fast_dev_run"))
    return Namespace(**{**unset, "strategy": "auto", **arguments})


@pytest.mark.parametrize(
    "callback",
    [WeightAveraging(), LearningRateFinder(), BatchSizeFinder(), ModelPruning("l1_unstructured")],
)
def test_callbacks_that_are_refused(callback: Callback) -> None:
    with pytest.raises(ConfigurationError, match=type(callback).__name__):
        refuse_unsupported(of_trainer(), [callback])


@pytest.mark.parametrize("strategy", ["deepspeed_stage_2", "fsdp_cpu_offload", "ddp_notebook"])
def test_strategies_that_are_refused(strategy: str) -> None:
    with pytest.raises(ConfigurationError, match=strategy):
        refuse_unsupported(of_trainer(strategy=strategy), [])


def test_a_strategy_that_lightning_derives_from_ddp_is_refused() -> None:
    strategy = object.__new__(DeepSpeedStrategy)  # whose package is not installed
    with pytest.raises(ConfigurationError, match="DeepSpeedStrategy"):
        refuse_unsupported(of_trainer(strategy=strategy), [])


def test_processes_that_do_not_begin_with_the_command_line_are_refused(
    tiny: Path, refusal: Callable[..., str]
) -> None:
    kind = "lightning.pytorch.strategies.DDPStrategy"
    strategy = f"{{class_path: {kind}, init_args: {{start_method: fork}}}}"
    options = ["--trainer.devices", "2", "--trainer.strategy", strategy]
    assert "remove its start_method" in refusal("fit", "--config", "tiny.yaml", *options)


@pytest.mark.parametrize("gpu", [False, True])
def test_our_own_settings_of_strategies(monkeypatch: pytest.MonkeyPatch, gpu: bool) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    assert own_strategy("auto", "auto", processes=1) == "auto"
    given = DDPStrategy()
    assert own_strategy(given, "auto", processes=2) is given
    for name, accelerator in itertools.product((*DDP, "auto", "fsdp"), ("auto", "gpu", "cpu")):
        made = own_strategy(name, accelerator, processes=2)
        assert isinstance(made, FullySharded if name == "fsdp" else DDPStrategy)
        backend = "cpu:gloo,cuda:nccl" if gpu and accelerator != "cpu" else None
        assert made.process_group_backend == backend
        assert made._timeout == timedelta(seconds=WAITS.limit)
