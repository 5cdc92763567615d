"""Parts of Lightning that cannot run here, and its own decisions that are overridden."""

from __future__ import annotations

import itertools
import json
import logging
import re
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from jsonargparse import Namespace
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import (
    BatchSizeFinder,
    EarlyStopping,
    EMAWeightAveraging,
    LearningRateFinder,
    ModelCheckpoint,
    ModelPruning,
    Timer,
    WeightAveraging,
)
from lightning.pytorch.strategies import DDPStrategy

from callbacks.training.ema import EMA
from callbacks.training.guard import Guard
from commands.distributed.launch import (
    COUNTS,
    FullySharded,
    own_strategy,
    own_timers,
    refuse_unsupported,
)
from commands.errors import ConfigurationError
from tests.quick import quick

Enlarger = Callable[..., None]
FIT = ("fit", "--config", "tiny.yaml")


def weights(run: str = "tiny") -> dict[str, Any]:
    path = sorted(Path("runs", run, "checkpoints").glob("step-*.ckpt"))[-1]
    state: dict[str, Any] = torch.load(path, weights_only=True)
    return state


# ---------------------------------------------------------------------------------- what is refused


class Averages(EMAWeightAveraging):
    """A callback of a user, as in Lightning's documentation."""


def of_trainer(**arguments: Any) -> Namespace:
    """Return a trainer's arguments as the command line has them."""
    unset = dict.fromkeys((*COUNTS, "gradient_clip_val", "max_time", "fast_dev_run"))
    return Namespace(**{**unset, "strategy": "auto", **arguments})


@pytest.mark.parametrize(
    ("callback", "sentence"),
    [
        (EMAWeightAveraging(), "EMAWeightAveraging, but .* use callbacks.EMA"),
        (WeightAveraging(), "WeightAveraging, but .* use callbacks.EMA"),
        (Averages(), "Averages, but .* use callbacks.EMA"),
        (LearningRateFinder(), "the learning rate of model.init_args.optimizer"),
        (BatchSizeFinder(), "set data.init_args.batch_size"),
        (ModelPruning("l1_unstructured"), "ModelPruning, but checkpoints do not hold its masks"),
    ],
)
def test_callbacks_that_are_refused(callback: Callback, sentence: str) -> None:
    with pytest.raises(ConfigurationError, match=sentence):
        refuse_unsupported(of_trainer(), [callback])


@pytest.mark.parametrize(
    "make",
    [
        lambda: EarlyStopping("val/psnr", mode="max"),
        *(EMA, Guard, ModelCheckpoint, partial(Timer, {"hours": 1})),
    ],
)
def test_a_callback_that_is_there_twice(make: Callable[[], Callback]) -> None:
    one, other = make(), make()
    with pytest.raises(ConfigurationError, match=f"two {type(one).__name__}, .* remove one"):
        refuse_unsupported(of_trainer(), [one, other])


@pytest.mark.parametrize(
    "strategy",
    [
        "deepspeed_stage_2",
        "fsdp_cpu_offload",
        "single_xla",
        "xla",
        "single_tpu",
        "ddp_notebook",
        "ddp_fork",
    ],
)
def test_strategies_that_are_refused(strategy: str) -> None:
    said = f"trainer.strategy is '{strategy}', .*set it to ddp"
    with pytest.raises(ConfigurationError, match=said):
        refuse_unsupported(of_trainer(strategy=strategy), [])


# ----------------------------------------------------- what other callbacks do to the weights


# -------------------------------------------------------------------------------- what is resumed


def psnr(text: str) -> list[str]:
    return [line for line in text.splitlines() if '"value"' in line or "psnr" in line]


# --------------------------------------------------------------------------------- the time


class Slow(Callback):
    """Make steps last a tenth of a second."""

    def on_train_batch_start(self, trainer: Trainer, *_: Any) -> None:
        time.sleep(0.1)


@pytest.mark.parametrize("together", quick([1, 2], 2))
def test_max_time_is_that_of_each_start(
    tiny: Path, enlarger: Enlarger, caplog: pytest.LogCaptureFixture, together: int
) -> None:
    limited = (*FIT, "--trainer.max_time", "{milliseconds: 350}", "--trainer.max_steps", 1000)
    limited += ("--trainer.callbacks+", f"{__name__}.Slow")
    limited += ("--trainer.accumulate_grad_batches", together, "--data.init_args.val", "null")
    reached = [0]
    for _ in range(2):
        caplog.clear()
        with caplog.at_level(logging.INFO):
            enlarger(*limited)
        reached.append(weights()["global_step"])
        assert f"trainer.max_time is over: stopped after step {reached[-1]}" in caplog.text
    assert reached[0] < reached[1] < reached[2]


SAID = "it must be above 0, as DD:HH:MM:SS"


@pytest.mark.parametrize("key", ["max_time", "val_check_interval"])
@pytest.mark.parametrize("given", ["00:00:00:00", "12", "01:00", {"second": 1}, {"seconds": 0}])
def test_no_time_at_all(key: str, given: Any) -> None:
    with pytest.raises(ConfigurationError, match=re.escape(f"{key} is {given}: {SAID}")):
        own_timers(of_trainer(**{key: given}), [])


def test_a_validation_by_time(
    tiny: Path, enlarger: Enlarger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A second a step: after every third one, as long as no accumulation is unfinished."""
    clock = SimpleNamespace(monotonic=itertools.count(0.0, 1.0).__next__)
    monkeypatch.setattr("commands.distributed.callbacks.time", clock)
    every = ("--trainer.val_check_interval", "00:00:00:02", "--trainer.accumulate_grad_batches", 2)
    enlarger(*FIT, *every, "--checkpoint.keep_best", 9)
    scores = json.loads(Path("runs/tiny/checkpoints/best.json").read_text())["scores"]
    assert list(scores) == [f"step-{step:09d}.ckpt" for step in (2, 4, 6, 8, 10, 12)]


@pytest.mark.parametrize("gpu", [False, True])
def test_tensors_of_the_cpu_go_by_gloo(monkeypatch: pytest.MonkeyPatch, gpu: bool) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    assert own_strategy("ddp", "cpu", several=True) == "ddp"  # gloo, by Lightning
    assert own_strategy("auto", "auto", several=False) == "auto"
    given = DDPStrategy()
    assert own_strategy(given, "auto", several=True) is given
    for accelerator in ("auto", "gpu", "cuda"):
        ddp, auto, fsdp = (
            own_strategy(name, accelerator, several=True) for name in ("ddp", "auto", "fsdp")
        )
        assert isinstance(fsdp, FullySharded)
        if not gpu:
            assert (ddp, auto, fsdp.process_group_backend) == ("ddp", "auto", None)
            continue
        assert isinstance(ddp, DDPStrategy)
        assert isinstance(auto, DDPStrategy)
        assert auto.process_group_backend == ddp.process_group_backend
        assert ddp.process_group_backend == fsdp.process_group_backend == "cpu:gloo,cuda:nccl"
