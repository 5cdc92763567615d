"""Guard: a left-out update changes nothing, on one process and two; too many; resuming."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from copy import deepcopy
from functools import partial

import pytest
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.plugins.precision import MixedPrecision
from torch.utils.data import DataLoader

from callbacks.training.ema import EMA
from callbacks.training.guard import Guard
from tests.callbacks.broken import ADAM, FAULTS, Poisoned, WithGradient
from tests.callbacks.tiny import Images, Tiny, collate, trainer
from tests.commands.test_resume import Interruption, assert_same, newest
from tests.conftest import REPO, words_of
from tests.ports import free_port

LIMIT = 150  # seconds for processes that would wait for each other


def batches(numbers):
    """The batches of 12 images, two each, with these numbers, in this order."""
    pairs = [[2 * number, 2 * number + 1] for number in numbers]
    return DataLoader(Images(12), batch_sampler=pairs, collate_fn=collate)


def first_key(batch):
    """The key of the first image of a batch."""
    return f"tiny/{2 * batch:02d}"


def fit(folder, model, data, *callbacks, **settings):
    """The content of the checkpoint after a run."""
    run = trainer(folder, *callbacks, **settings)
    run.fit(model, data)
    run.save_checkpoint(folder / "end.ckpt")
    return torch.load(folder / "end.ckpt", weights_only=True)


def assert_equal(saved, expected):
    """Weights, optimiser, schedule, step and averages are those of another checkpoint."""
    for part in ("state_dict", "optimizer_states", "lr_schedulers", "global_step"):
        torch.testing.assert_close(saved[part], expected[part], rtol=0, atol=0, msg=part)
    averages = saved["callbacks"]["EMA"]
    torch.testing.assert_close(averages, expected["callbacks"]["EMA"], rtol=0, atol=0)


class LeaveOut(Callback):
    """Leave out the updates of some batches by hand, as the reference.

    Args:
        bad: Keys of images.
    """

    def __init__(self, *bad):
        self.bad = set(bad)
        self.is_bad = False
        self.good = {}

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if not batch_idx % trainer.accumulate_grad_batches:
            self.good = deepcopy(pl_module.norm.state_dict())
            self.is_bad = False
        self.is_bad |= bool(self.bad & set(batch["key"]))

    def on_before_optimizer_step(self, trainer, pl_module, optimizer):
        if self.is_bad:
            optimizer.zero_grad(set_to_none=True)
            for name, value in pl_module.norm.named_buffers():
                value.copy_(self.good[name])


# ------------------------------------------------------------------------------ one process


@pytest.mark.parametrize(
    ("fault", "optimizer", "settings"),
    [
        *[(fault, ADAM, {}) for fault in FAULTS],
        ("inf gradient", partial(torch.optim.AdamW, lr=0.01, weight_decay=0.1, fused=True), {}),
        ("inf gradient", partial(torch.optim.Adam, lr=0.01), {}),
        ("nan input", partial(torch.optim.SGD, lr=0.01, momentum=0.9, fused=True), {}),
        ("nan input", ADAM, {"gradient_clip_val": 0.05}),
        ("nan input", ADAM, {"precision": "bf16-mixed"}),
    ],
)
def test_a_left_out_update_changes_nothing_but_the_count(tmp_path, fault, optimizer, settings):
    bad = (first_key(0), first_key(2), first_key(3))
    data = batches([0, 1, 2, 3, 4, 5])
    guard = Guard()
    model = Poisoned(fault, bad, optimizer)

    guarded = fit(tmp_path / "a", model, data, EMA(), guard, **settings)

    sound = Poisoned(optimizer=optimizer)
    expected = fit(tmp_path / "b", sound, data, EMA(), LeaveOut(*bad), **settings)
    assert_equal(guarded, expected)
    assert guarded["global_step"] == 6  # those left out count
    assert guard.skipped == 3


def test_an_update_of_accumulated_batches_is_left_out_as_a_whole(tmp_path):
    bad = (first_key(0), first_key(3))
    data = batches([0, 1, 2, 3, 4, 5])
    guard = Guard()
    model = Poisoned("nan input", bad)

    guarded = fit(tmp_path / "a", model, data, EMA(), guard, accumulate_grad_batches=2)

    by_hand = LeaveOut(*bad)
    expected = fit(tmp_path / "b", Poisoned(), data, EMA(), by_hand, accumulate_grad_batches=2)
    assert_equal(guarded, expected)
    assert guarded["global_step"] == 3  # of two batches each
    assert guard.skipped == 2  # with the batches 0 and 1, and 2 and 3


# -------------------------------------------------------------------------------- refusals


def test_too_many_updates_in_a_row_stop_the_run(tmp_path):
    guard = Guard(in_a_row=2)
    model = Poisoned("nan loss", (first_key(0), first_key(2), first_key(3)))

    # The updates 3 and 4, counted from 1; a verdict is read one update later.
    with pytest.raises(ValueError, match=r"after step 5: 2 updates in a row were left out"):
        fit(tmp_path, model, batches([0, 1, 2, 3, 4, 5]), guard)

    assert guard.skipped == 3
    assert guard.rows == {0: 2}  # in a row, by the position of the optimiser


def test_weights_that_are_not_finite_are_not_saved(tmp_path):
    class Leaps(Tiny):
        def configure_optimizers(self):
            return torch.optim.SGD(self.net.parameters(), lr=1e38)  # beyond float32

    with pytest.raises(ValueError, match="the weights after step 1 are not finite, so they are"):
        fit(tmp_path, Leaps(), batches([0, 1]), Guard(), max_steps=1)

    assert not (tmp_path / "end.ckpt").exists()


# -------------------------------------------------------------------- scaler, manual optimisation


class Overflows(Poisoned):
    """The gradient of a scaled loss overflows until the scale is low enough."""

    def training_step(self, batch, batch_idx):
        loss = super().training_step(batch, batch_idx)
        return WithGradient.apply(loss, lambda gradient: gradient.half().float()) * 4


def scaled(scale):
    scaler = torch.amp.GradScaler("cpu", init_scale=scale)
    return {"plugins": [MixedPrecision("16-mixed", "cpu", scaler)]}


def test_the_scaler_may_look_for_its_scale(tmp_path):
    """Times 2^15 or 2^14, a gradient of 4 is above float16's 65504: it leaves out updates 0, 1."""
    adam = partial(torch.optim.Adam, lr=0.01)
    data = batches([0, 1, 2, 3])
    guard = Guard()

    guarded = fit(tmp_path / "a", Overflows(optimizer=adam), data, EMA(), guard, **scaled(2**15))

    by_hand = LeaveOut(first_key(0), first_key(1))
    model = Overflows(optimizer=adam)
    expected = fit(tmp_path / "b", model, data, EMA(), by_hand, **scaled(2**12))
    assert guard.skipped == 0
    assert guarded["MixedPrecision"]["scale"] == 2**13  # 2^15 halved twice
    assert_equal(guarded, expected)


class Manual(Tiny):
    """Two optimisers; the loss of the second may be NaN."""

    def __init__(self, bad=-1):
        super().__init__()
        self.automatic_optimization = False
        self.frozen.requires_grad_(True)
        self.bad = bad

    def training_step(self, batch, batch_idx):
        first, second = self.optimizers()
        self.step(first, super().training_step(batch, batch_idx))
        loss = self.frozen(batch["lr"]).square().mean()
        self.step(second, loss * torch.nan if batch_idx == self.bad else loss)

    def step(self, optimizer, loss):
        optimizer.zero_grad()
        self.manual_backward(loss)
        optimizer.step()

    def configure_optimizers(self):
        first = torch.optim.Adam(self.net.parameters(), lr=0.01)
        second = torch.optim.Adam(self.frozen.parameters(), lr=0.01)
        return [first, second]


def test_manual_optimisation_is_judged_step_by_step(tmp_path):
    guard = Guard()

    guarded = fit(tmp_path / "a", Manual(bad=1), batches([0, 1, 2]), guard)

    whole = fit(tmp_path / "b", Manual(), batches([0, 1, 2]))["state_dict"]
    without = fit(tmp_path / "c", Manual(), batches([0, 2]))["state_dict"]
    weights = guarded["state_dict"]
    assert guard.skipped == 1
    assert guarded["global_step"] == 6  # 3 batches, two optimisers
    assert torch.equal(weights["net.weight"], whole["net.weight"])
    assert torch.equal(weights["frozen.weight"], without["frozen.weight"])


# ------------------------------------------------------------------------------ two processes


class Sharded(Poisoned):
    """A model of which each process has every second batch."""

    def train_dataloader(self):
        return batches(range(self.trainer.global_rank, 6, self.trainer.world_size))


class Save(Callback):
    """Write what each process holds at the end."""

    def __init__(self, folder):
        self.folder = folder
        folder.mkdir()

    def on_train_end(self, trainer, pl_module):
        checkpoint = trainer._checkpoint_connector.dump_checkpoint(weights_only=False)
        torch.save(checkpoint, self.folder / f"{trainer.global_rank}.pt")


def fit_on_two(folder, model, *callbacks):
    """What each of two processes holds after a fit."""
    run = trainer(folder, *callbacks, Save(folder), devices=2, strategy="ddp_spawn")
    run.fit(model)
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in (0, 1)]


@pytest.mark.slow
@pytest.mark.distributed
def test_both_processes_leave_out_what_one_has_seen(tmp_path):
    model = Sharded("nan loss", (first_key(3),))  # the second batch of rank 1

    guarded = fit_on_two(tmp_path / "a", model, EMA(), Guard())

    by_hand = LeaveOut(first_key(2), first_key(3))  # the second batch of both ranks
    expected = fit_on_two(tmp_path / "b", Sharded(), EMA(), by_hand)
    for rank in (0, 1):
        assert_equal(guarded[rank], expected[rank])
        assert guarded[rank]["callbacks"]["Guard"]["skipped"] == 1
    first = guarded[0]["state_dict"]
    second = guarded[1]["state_dict"]
    for name in ("net.weight", "net.bias", "norm.weight"):  # statistics are each process's own
        assert torch.equal(first[name], second[name])


def launch(command):
    """``main.py`` on two processes: its output and its status."""
    run = f"-m torch.distributed.run --nproc_per_node 2 --master_port {free_port()}"
    words = words_of(f"{run} --master_addr 127.0.0.1 {REPO}/main.py {command}")
    return subprocess.run(
        [sys.executable, *words, "--trainer.devices", "2"],
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPO)},
        capture_output=True,
        text=True,
        timeout=LIMIT,
    )


def write_own(callbacks, **arguments):
    """A configuration with `SometimesNaN` and callbacks, beside tiny.yaml; return the command."""
    model = {"class_path": "tests.callbacks.broken.SometimesNaN", "init_args": arguments}
    content = {"model": model, "trainer": {"callbacks": callbacks}}
    with open("own.yaml", "w") as file:
        json.dump(content, file)
    return "fit --config tiny.yaml --config own.yaml"


def guard(in_a_row=10):
    return {"class_path": "callbacks.Guard", "init_args": {"in_a_row": in_a_row}}


@pytest.mark.slow
@pytest.mark.distributed
@pytest.mark.parametrize(
    ("strategy", "callbacks"),
    [("ddp", ["callbacks.EMA", guard(3)]), ("fsdp", [guard(3)])],  # which has no EMA
)
def test_all_processes_stop_at_the_limit(tiny, strategy, callbacks):
    command = write_own(callbacks, after=5, always=True)

    done = launch(
        f"{command} --run.name a --checkpoint.every_n_steps 5 --trainer.strategy {strategy}"
    )

    output = done.stdout + done.stderr
    # Of 5 sound updates and 3 of NaN; the verdict on the last is read one update later.
    # By one process, or by both if neither has heard of the other's.
    assert "error: stopped after step 9: 3 updates in a row were left out" in output
    assert "exitcode  : 2" in output, output
    assert "Traceback" not in output.partition("torch/distributed")[0]
    saved = newest("a")
    assert saved["global_step"] == 5  # the checkpoint before the stop
    assert all(value.isfinite().all() for value in saved["state_dict"].values())


@pytest.mark.slow
@pytest.mark.distributed
def test_a_sharded_run_goes_on_as_a_whole_one(tiny):
    """Each process of FSDP has a part of the gradient only."""
    command = write_own([guard(99)], after=1)

    for strategy in ("ddp", "fsdp"):
        done = launch(f"{command} --trainer.strategy {strategy} --run.name {strategy}")
        assert done.returncode == 0, done.stderr

    ddp = newest("ddp")
    fsdp = newest("fsdp")
    skipped = ddp["callbacks"]["Guard"]["skipped"]
    assert skipped > 0
    assert fsdp["callbacks"]["Guard"]["skipped"] == skipped
    for part in ("state_dict", "optimizer_states"):
        torch.testing.assert_close(ddp[part], fsdp[part], rtol=0, atol=1e-6)


# ------------------------------------------------------------------------- the command line


@pytest.mark.slow
@pytest.mark.parametrize("hook", ["batch_start", "backward", "batch_end", "validation"])
@pytest.mark.parametrize("batch", [4, 9])
def test_a_resumed_run_ends_with_the_same_bits(tiny, enlarger, monkeypatch, hook, batch):
    command = write_own(["callbacks.EMA", guard()])
    command += " --trainer.val_check_interval 2 --checkpoint.every_n_steps 1"
    command += " --trainer.callbacks+ tests.commands.test_resume.Interruption --run.name"
    enlarger(f"{command} whole")
    monkeypatch.setattr(Interruption, "hook", hook)
    monkeypatch.setattr(Interruption, "batch", batch)
    with pytest.raises(RuntimeError, match="interrupted"):
        enlarger(f"{command} stopped")

    enlarger(f"{command} stopped")

    assert newest("whole")["callbacks"]["Guard"]["skipped"] > 2
    assert_same("stopped", "whole")
