"""Parts of Lightning that cannot run here, and its own decisions that are overridden."""

from __future__ import annotations

import itertools
import json
import logging
import re
import shutil
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from jsonargparse import Namespace
from lightning.pytorch import Callback, LightningModule, Trainer
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
CALLBACKS = "lightning.pytorch.callbacks."


def weights(run: str = "tiny") -> dict[str, Any]:
    path = sorted(Path("runs", run, "checkpoints").glob("step-*.ckpt"))[-1]
    state: dict[str, Any] = torch.load(path, weights_only=True)
    return state


def assert_same(one: dict[str, Any], other: dict[str, Any]) -> None:
    for part in ("state_dict", "optimizer_states", "lr_schedulers", "global_step"):
        torch.testing.assert_close(one[part], other[part], rtol=0, atol=0, msg=f"{part} differs")


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
        (EMAWeightAveraging(), "an EMAWeightAveraging, but .* use callbacks.EMA"),
        (WeightAveraging(), "a WeightAveraging, but .* use callbacks.EMA"),
        (Averages(), "an Averages, but .* use callbacks.EMA"),
        (LearningRateFinder(), "the learning rate of model.init_args.optimizer"),
        (BatchSizeFinder(), "set data.init_args.batch_size"),
        (ModelPruning("l1_unstructured"), "a ModelPruning, but checkpoints do not hold its masks"),
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


def test_two_callbacks_of_a_class_with_different_states() -> None:
    refuse_unsupported(of_trainer(), [EarlyStopping("val/psnr"), EarlyStopping("val/ssim")])


@pytest.mark.parametrize(
    ("callback", "sentence"),
    [
        (f"{__name__}.Averages", "an Averages, but .* use callbacks.EMA"),
        (f"{CALLBACKS}BackboneFinetuning", "Regression has no attribute backbone"),
    ],
)
def test_callbacks_of_lightning_that_cannot_run(
    tiny: Path, refusal: Callable[..., str], callback: str, sentence: str
) -> None:
    said = refusal(*FIT, "--trainer.callbacks+", callback)
    assert re.search(sentence, said), said
    assert not Path("runs/tiny/checkpoints").exists()


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


def test_a_strategy_that_cannot_run(tiny: Path, refusal: Callable[..., str]) -> None:
    said = refusal(*FIT, "--trainer.strategy", "xla")
    assert said.startswith("trainer.strategy is 'xla', but TPUs are not supported: set it to ddp")


def test_averages_that_no_command_uses_are_said(
    tiny: Path, enlarger: Enlarger, caplog: pytest.LogCaptureFixture
) -> None:
    given = f"{{class_path: {CALLBACKS}StochasticWeightAveraging, init_args: {{swa_lrs: 0.001, "
    given += "swa_epoch_start: 1}}"
    enlarger(*FIT, "--run.name", "swa", "--trainer.callbacks+", given, "--trainer.max_epochs", 9)
    assert "no command uses the averages of" in caplog.text
    raw, averages = weights("swa")["state_dict"], weights("swa")["callbacks"]
    state = next(value for key, value in averages.items() if "Stochastic" in key)
    assert any(not torch.equal(raw[k], state["average_model_state"][k]) for k in raw)


# ----------------------------------------------------- what other callbacks do to the weights


class Spoils(Callback):
    """Change the weights at the end of training, or of an epoch."""

    def __init__(self, epochs: bool = False) -> None:
        self.epochs = epochs

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._change(pl_module)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.epochs:
            self._change(pl_module)

    def _change(self, module: LightningModule) -> None:
        with torch.no_grad():
            for parameter in module.parameters():
                parameter.mul_(0.5)


@pytest.mark.slow
def test_what_a_callback_does_to_the_weights_at_the_end_is_in_no_checkpoint(
    trained: Path, enlarger: Enlarger
) -> None:
    plain = weights()
    spoils = ("--trainer.callbacks+", f"{__name__}.Spoils")
    enlarger(*FIT, *spoils, "--run.name", "parts", "--trainer.max_steps", 6)
    enlarger(*FIT, *spoils, "--run.name", "parts")
    assert_same(weights("parts"), plain)


@pytest.mark.slow
def test_an_epoch_that_a_run_is_stopped_in_has_no_end(tiny: Path, enlarger: Enlarger) -> None:
    """A callback that changes the weights after each epoch (of 5 steps) does so three times."""
    spoils = (
        "--trainer.callbacks+",
        f"{{class_path: {__name__}.Spoils, init_args: {{epochs: true}}}}",
    )
    enlarger(*FIT, *spoils, "--run.name", "whole", "--trainer.max_steps", 15)
    for steps in (6, 15):
        enlarger(*FIT, *spoils, "--run.name", "parts", "--trainer.max_steps", steps)
    assert_same(weights("parts"), weights("whole"))


# -------------------------------------------------------------------------------- what is resumed


def on_exception(folder: Path) -> str:
    return f"{{class_path: {CALLBACKS}OnExceptionCheckpoint, init_args: {{dirpath: {folder}}}}}"


def test_afresh_is_afresh_whatever_another_callback_has_saved(
    trained: Path, enlarger: Enlarger, tmp_path: Path
) -> None:
    kept = tmp_path / "kept"
    kept.mkdir()
    for name in ("on_exception", "last"):
        shutil.copy(trained / "checkpoints" / "step-000000012.ckpt", kept / f"{name}.ckpt")
    last = f"{{class_path: {CALLBACKS}ModelCheckpoint, "
    last += f"init_args: {{dirpath: {kept}, save_last: true}}}}"
    callbacks = ["--trainer.callbacks+", on_exception(kept)]
    callbacks += ["--trainer.callbacks+", last]
    enlarger(*FIT, *callbacks, "--trainer.max_steps", 3, "--run.overwrite", "true")
    assert weights()["global_step"] == 3


def test_slurm_s_checkpoint_in_a_run_is_not_taken(
    trained: Path, enlarger: Enlarger, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"NTASKS": "1", "PROCID": "0", "LOCALID": "0", "NODEID": "0"}.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    foreign = torch.load(trained / "checkpoints" / "step-000000012.ckpt", weights_only=True)
    for value in foreign["state_dict"].values():
        value.mul_(100.0)
    run = Path("runs/other")
    run.mkdir()
    torch.save(foreign, run / "hpc_ckpt_1.ckpt")
    enlarger(*FIT, "--run.name", "other", "--trainer.max_steps", 3)
    assert weights("other")["global_step"] == 3
    torch.save(foreign, trained / "hpc_ckpt_1.ckpt")
    results = trained / "results.json"
    enlarger("test", "--config", "tiny.yaml")
    with_it = results.read_text()
    (trained / "hpc_ckpt_1.ckpt").unlink()
    enlarger("test", "--config", "tiny.yaml")
    assert psnr(with_it) == psnr(results.read_text())


def psnr(text: str) -> list[str]:
    return [line for line in text.splitlines() if '"value"' in line or "psnr" in line]


@pytest.mark.parametrize("word", quick(["best", "last", "hpc"], "last"))
def test_a_word_of_lightning_s_is_a_file_s_name(
    trained: Path, enlarger: Enlarger, refusal: Callable[..., str], word: str
) -> None:
    given = ("--ckpt_path", word, "--run.name", "next")
    assert f"ckpt_path is {word}, and there is no such file" in refusal(*FIT, *given)
    shutil.copy(trained / "checkpoints" / "step-000000012.ckpt", word)
    enlarger(*FIT, *given, "--trainer.max_steps", 13)
    assert weights("next")["global_step"] == 13


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


def test_a_timer_of_ones_own_counts_all_starts_and_says_so(
    tiny: Path, enlarger: Enlarger, caplog: pytest.LogCaptureFixture
) -> None:
    timer = f"{{class_path: {CALLBACKS}Timer, "
    timer += "init_args: {duration: {milliseconds: 350}, interval: step}}"
    limited = (*FIT, "--trainer.max_steps", 1000, "--trainer.callbacks+", f"{__name__}.Slow")
    limited += ("--trainer.callbacks+", timer)
    enlarger(*limited)
    reached = weights()["global_step"]
    assert 0 < reached < 1000
    with caplog.at_level(logging.WARNING):
        enlarger(*limited)
    assert weights()["global_step"] == reached
    assert "counts all starts of the run together" in caplog.text


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


def test_no_time_at_all_is_refused(tiny: Path, refusal: Callable[..., str]) -> None:
    message = refusal(*FIT, "--trainer.max_time", "{'seconds': 0}")
    assert message.startswith(f"trainer.max_time is {{'seconds': 0}}: {SAID}")


def test_max_time_that_is_not_needed(trained: Path, enlarger: Enlarger) -> None:
    enlarger(*FIT, "--run.name", "limited", "--trainer.max_time", "{hours: 1}")
    assert_same(weights("limited"), weights())
    assert "Timer" not in weights("limited")["callbacks"]


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
