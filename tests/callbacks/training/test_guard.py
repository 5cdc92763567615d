"""Guard: a left-out update changes nothing, on one process and two; too many; resuming."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from copy import deepcopy
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.plugins.precision import MixedPrecision
from torch import Tensor
from torch.utils.data import DataLoader

from callbacks.training.ema import EMA
from callbacks.training.guard import Guard
from tests.callbacks.broken import ADAM, FAULTS, Poisoned, WithGradient
from tests.callbacks.tiny import Images, Tiny, collate, trainer
from tests.commands.test_resume import Interruption, assert_same, newest
from tests.conftest import REPO
from tests.ports import free_port

PARTS = ("state_dict", "optimizer_states", "lr_schedulers", "global_step")
LIMIT = 150  # seconds for processes that would wait for each other


def batches(numbers: list[int], size: int = 2) -> DataLoader[Any]:
    """Return the batches of 12 images with these numbers, in this order."""
    chosen = [[size * n, size * n + 1] for n in numbers]
    return DataLoader(Images(12), batch_sampler=chosen, collate_fn=collate)


def key(number: int) -> str:
    return f"tiny/{number:02d}"


def fit(
    folder: Path, model: LightningModule, data: Any, *callbacks: Callback, **settings: Any
) -> dict[str, Any]:
    """Return the content of the checkpoint after a run."""
    run = trainer(folder, *callbacks, **settings)
    run.fit(model, data)
    run.save_checkpoint(folder / "end.ckpt")
    saved: dict[str, Any] = torch.load(folder / "end.ckpt", weights_only=True)
    return saved


def assert_equal(one: dict[str, Any], other: dict[str, Any], *parts: str) -> None:
    for part in (*PARTS, *parts):
        torch.testing.assert_close(one[part], other[part], rtol=0, atol=0, msg=f"{part} differs")


def assert_same_averages(one: dict[str, Any], other: dict[str, Any]) -> None:
    averages = [saved["callbacks"]["EMA"] for saved in (one, other)]
    torch.testing.assert_close(*averages, rtol=0, atol=0)


class LeaveOut(Callback):
    """Leave out the updates of some batches by hand, as the reference.

    Args:
        bad: Keys of images.
    """

    def __init__(self, bad: tuple[str, ...]) -> None:
        self.bad = set(bad)
        self.is_bad = False
        self.good: dict[str, Any] = {}

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: Any, batch: Any, batch_idx: int
    ) -> None:
        if not batch_idx % trainer.accumulate_grad_batches:
            self.good = deepcopy(pl_module.norm.state_dict())
            self.is_bad = False
        self.is_bad |= bool(self.bad & set(batch["key"]))

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: Any, optimizer: Any) -> None:
        if self.is_bad:
            optimizer.zero_grad(set_to_none=True)
            for name, value in pl_module.norm.named_buffers():
                value.copy_(self.good[name])


# ------------------------------------------------------------------------------ one process


@pytest.mark.parametrize(
    ("fault", "optimizer", "settings"),
    [
        *((fault, ADAM, {}) for fault in FAULTS),
        ("inf gradient", partial(torch.optim.AdamW, lr=0.01, weight_decay=0.1, fused=True), {}),
        ("inf gradient", partial(torch.optim.Adam, lr=0.01), {}),
        ("nan input", partial(torch.optim.SGD, lr=0.01, momentum=0.9, weight_decay=0.1), {}),
        ("nan input", partial(torch.optim.SGD, lr=0.01, momentum=0.9, fused=True), {}),
        ("nan input", ADAM, {"gradient_clip_val": 0.05}),
        ("nan input", ADAM, {"accumulate_grad_batches": 2}),
        ("nan input", ADAM, {"precision": "bf16-mixed"}),
    ],
)
def test_a_left_out_update_changes_nothing_but_the_count(tmp_path, fault, optimizer, settings):
    bad = (key(0), key(5), key(6))  # of the batches 0, 2 and 3
    data = batches([0, 1, 2, 3, 4, 5])
    guard = Guard()

    model = Poisoned(fault, bad, optimizer)
    guarded = fit(tmp_path / "a", model, data, EMA(), guard, **settings)

    sound = Poisoned(optimizer=optimizer)
    reference = fit(tmp_path / "b", sound, data, EMA(), LeaveOut(bad), **settings)
    assert_equal(guarded, reference)
    assert_same_averages(guarded, reference)
    accumulates = "accumulate_grad_batches" in settings
    assert guarded["global_step"] == (3 if accumulates else 6)
    assert guard.skipped == (2 if accumulates else 3)


# -------------------------------------------------------------------------------- refusals


def test_too_many_updates_in_a_row_stop_the_run(tmp_path):
    guard = Guard(in_a_row=2)
    model = Poisoned("nan loss", (key(0), key(4), key(6)))  # of the batches 0, 2 and 3

    with pytest.raises(ValueError, match=r"after step 5: 2 updates in a row were left out"):
        fit(tmp_path, model, batches([0, 1, 2, 3, 4, 5]), guard)

    assert guard.skipped == 3
    assert guard.rows == {0: 2}


def test_weights_that_are_not_finite_are_not_saved(tmp_path: Path) -> None:
    class Leaps(Tiny):
        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.SGD(self.net.parameters(), lr=1e38)

    with pytest.raises(ValueError, match="the weights after step 1 are not finite, so they are"):
        fit(tmp_path, Leaps(), batches([0, 1]), Guard(), max_steps=1)
    assert not (tmp_path / "end.ckpt").exists()


# -------------------------------------------------------------------- scaler, manual optimisation


class Overflows(Poisoned):
    """The gradient of a scaled loss overflows until the scale is low enough."""

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        loss = super().training_step(batch, batch_idx)
        return WithGradient.apply(loss, lambda gradient: gradient.half().float()) * 4


def scaled(scale: float) -> dict[str, Any]:
    scaler = torch.amp.GradScaler("cpu", init_scale=scale)
    return {"plugins": [MixedPrecision("16-mixed", "cpu", scaler)]}


def test_the_scaler_may_look_for_its_scale(tmp_path):
    """With 2^15 and 2^14 a gradient of 4 overflows: the updates 0 and 1 are left out by it."""
    adam = partial(torch.optim.Adam, lr=0.01)
    data = batches([0, 1, 2, 3])
    guard = Guard()

    model = Overflows(optimizer=adam)
    guarded = fit(tmp_path / "a", model, data, EMA(), guard, **scaled(2**15))

    model = Overflows(optimizer=adam)
    by_hand = LeaveOut((key(0), key(2)))
    reference = fit(tmp_path / "b", model, data, EMA(), by_hand, **scaled(2**12))
    assert guard.skipped == 0
    assert guarded["MixedPrecision"]["scale"] == 2**13
    assert_equal(guarded, reference)
    assert_same_averages(guarded, reference)


class Manual(Tiny):
    """Two optimisers; the loss of the second may be NaN."""

    def __init__(self, bad: int = -1) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.frozen.requires_grad_(True)
        self.bad = bad

    def training_step(self, batch: Any, batch_idx: int) -> None:
        main, second = self.optimizers()
        loss = super().training_step(batch, batch_idx)
        other = self.frozen(batch["lr"]).square().mean()
        if batch_idx == self.bad:
            other = other * torch.nan
        for optimizer, part in ((main, loss), (second, other)):
            optimizer.zero_grad()
            self.manual_backward(part)
            optimizer.step()

    def configure_optimizers(self) -> Any:
        return [torch.optim.Adam(part.parameters(), lr=0.01) for part in (self.net, self.frozen)]


def test_manual_optimisation_is_judged_step_by_step(tmp_path):
    guard = Guard()

    guarded = fit(tmp_path / "a", Manual(bad=1), batches([0, 1, 2]), guard)

    whole = fit(tmp_path / "b", Manual(), batches([0, 1, 2]))
    without = fit(tmp_path / "c", Manual(), batches([0, 2]))
    assert guard.skipped == 1
    assert guarded["global_step"] == 6
    for name, value in guarded["state_dict"].items():
        reference = whole if name.startswith("net") else without
        assert torch.equal(value, reference["state_dict"][name])


# ------------------------------------------------------------------------------ two processes


class Sharded(Poisoned):
    """A model of which each process has every second batch."""

    def __init__(self, fault: str, bad: tuple[str, ...], numbers: list[int]) -> None:
        super().__init__(fault, bad)
        self.numbers = numbers

    def train_dataloader(self) -> DataLoader[Any]:
        return batches(self.numbers[self.trainer.global_rank :: self.trainer.world_size])


class Save(Callback):
    """Write what each process holds at the end."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        checkpoint = trainer._checkpoint_connector.dump_checkpoint(weights_only=False)
        torch.save(checkpoint, self.folder / f"{trainer.global_rank}.pt")


def two(folder: Path, model: LightningModule, *callbacks: Callback) -> list[dict[str, Any]]:
    """Return what each of two processes holds after a fit."""
    run = trainer(folder, *callbacks, Save(folder), devices=2, strategy="ddp_spawn")
    run.fit(model)
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in (0, 1)]


@pytest.mark.slow
@pytest.mark.distributed
def test_both_processes_leave_out_what_one_has_seen(tmp_path: Path) -> None:
    numbers = [0, 1, 2, 3, 4, 5]
    model = Sharded("nan loss", (key(6),), numbers)  # the second batch of rank 1

    guarded = two(tmp_path / "a", model, EMA(), Guard())

    second = LeaveOut((key(4), key(6)))  # of both ranks
    reference = two(tmp_path / "b", Sharded("", (), numbers), EMA(), second)
    for rank in (0, 1):
        assert_equal(guarded[rank], reference[rank])
        assert_same_averages(guarded[rank], reference[rank])
        assert guarded[rank]["callbacks"]["Guard"]["skipped"] == 1
    for name in ("net.weight", "net.bias", "norm.weight"):  # statistics are each process's own
        assert torch.equal(*(saved["state_dict"][name] for saved in guarded))


def launch(*args: object) -> subprocess.CompletedProcess[str]:
    """``main.py`` on two processes: its output and its status."""
    run = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2"]
    place = ["--master_addr", "127.0.0.1", "--master_port", str(free_port())]
    return subprocess.run(
        [*run, *place, str(REPO / "main.py"), *map(str, args), "--trainer.devices", "2"],
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPO)},
        capture_output=True,
        text=True,
        timeout=LIMIT,
    )


def overlay(folder: Path, model: dict[str, Any], guard: dict[str, Any]) -> Path:
    """Return a configuration with a model of `broken.py` and a guard."""
    path = folder / "own.yaml"
    callbacks = ["callbacks.EMA", {"class_path": "callbacks.Guard", "init_args": guard}]
    content = {
        "model": {"class_path": "tests.callbacks.broken.SometimesNaN", "init_args": model},
        "trainer": {"callbacks": callbacks},
    }
    path.write_text(json.dumps(content))
    return path


@pytest.mark.slow
@pytest.mark.distributed
@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_all_processes_stop_at_the_limit(tiny: Path, strategy: str) -> None:
    own = overlay(tiny, {"after": 5, "always": True}, {"in_a_row": 3})
    flags = ["--run.name", "a", "--checkpoint.every_n_steps", 5, "--trainer.strategy", strategy]
    only = [{"class_path": "callbacks.Guard", "init_args": {"in_a_row": 3}}]  # no EMA
    flags += ["--trainer.callbacks", json.dumps(only)] if strategy == "fsdp" else []
    done = launch("fit", "--config", "tiny.yaml", "--config", own, *flags)
    said = done.stdout + done.stderr
    # By one of them, or by both if neither has heard of the other's.
    assert "error: stopped after step 9: 3 updates in a row were left out" in said
    assert "exitcode  : 2" in said, said
    assert "Traceback" not in said.partition("torch/distributed")[0]
    saved = newest("a")
    assert saved["global_step"] == 5
    assert all(value.isfinite().all() for value in saved["state_dict"].values())


@pytest.mark.slow
@pytest.mark.distributed
def test_a_sharded_run_goes_on_as_a_whole_one(tiny: Path) -> None:
    """Each process of FSDP has a part of the gradient only."""
    own = overlay(tiny, {"after": 1}, {})
    only = [{"class_path": "callbacks.Guard", "init_args": {"in_a_row": 99}}]
    flags = ["--trainer.callbacks", json.dumps(only), "--trainer.strategy"]
    command = ["fit", "--config", "tiny.yaml", "--config", own]
    for name in ("ddp", "fsdp"):
        done = launch(*command, *flags, name, "--run.name", name)
        assert done.returncode == 0, done.stderr
    ddp = newest("ddp")
    fsdp = newest("fsdp")
    assert ddp["callbacks"]["Guard"]["skipped"] == fsdp["callbacks"]["Guard"]["skipped"] > 0
    for part in ("state_dict", "optimizer_states"):
        torch.testing.assert_close(ddp[part], fsdp[part], rtol=0, atol=1e-6)


# ------------------------------------------------------------------------- the command line


@pytest.mark.slow
@pytest.mark.parametrize("hook", ["batch_start", "backward", "batch_end", "validation"])
def test_a_resumed_run_ends_with_the_same_bits(
    tiny: Path, enlarger: Callable[..., None], hook: str
) -> None:
    own = overlay(tiny, {}, {})
    command = ["fit", "--config", "tiny.yaml", "--config", own]
    command += ["--trainer.val_check_interval", 2, "--checkpoint.every_n_steps", 1]
    command += ["--trainer.callbacks+", "tests.commands.test_resume.Interruption"]
    enlarger(*command, "--run.name", "whole")
    assert newest("whole")["callbacks"]["Guard"]["skipped"] > 2
    for batch in (4, 9):
        stopped = [*command, "--run.name", f"stopped-{batch}"]
        Interruption.hook, Interruption.batch = hook, batch
        with pytest.raises(RuntimeError, match="interrupted"):
            enlarger(*stopped)
        enlarger(*stopped)
        assert_same(f"stopped-{batch}", "whole")
