"""Guard: a left-out update changes nothing, on one process and two; too many; resuming."""

from __future__ import annotations

import json
import math
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
from tests.distributed.processes import succeeds, torchrun


def batches(numbers):
    """Batches of two images, 2 n and 2 n + 1, for the given n."""
    pairs = [[2 * number, 2 * number + 1] for number in numbers]
    images = Images(count=12, name="tiny")
    return DataLoader(images, batch_sampler=pairs, collate_fn=collate)


def first_key(batch):
    """The key of the first image of a batch."""
    return f"tiny/{2 * batch:02d}"


def fit(folder, model, data, *callbacks, **settings):
    """Train for an epoch; return the content of the checkpoint at its end."""
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
    """The reference: an update with bad images gets no gradient, and their statistics are undone.

    Args:
        bad: Keys of these images.
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


ADAMW = partial(torch.optim.AdamW, lr=0.01, weight_decay=0.1, fused=True)
UNFUSED_ADAM = partial(torch.optim.Adam, lr=0.01)
SGD = partial(torch.optim.SGD, lr=0.01, momentum=0.9, fused=True)


@pytest.mark.parametrize(
    ("fault", "optimizer", "settings"),
    [
        *[pytest.param(fault, ADAM, {}, id=fault) for fault in FAULTS],
        pytest.param("inf gradient", ADAMW, {}, id="AdamW"),
        pytest.param("inf gradient", UNFUSED_ADAM, {}, id="Adam, not fused"),
        pytest.param("nan input", SGD, {}, id="SGD"),
        pytest.param("nan input", ADAM, {"gradient_clip_val": 0.05}, id="clipped gradient"),
        pytest.param("nan input", ADAM, {"precision": "bf16-mixed"}, id="bfloat16"),
    ],
)
def test_an_update_that_is_not_finite_is_skipped_and_counts_as_a_step(
    tmp_path, fault, optimizer, settings
):
    bad = (first_key(0), first_key(2), first_key(3))
    data = batches([0, 1, 2, 3, 4, 5])
    guard = Guard()
    model = Poisoned(fault, bad, optimizer)

    guarded = fit(tmp_path / "a", model, data, EMA(), guard, **settings)

    sound = Poisoned(optimizer=optimizer)
    expected = fit(tmp_path / "b", sound, data, EMA(), LeaveOut(*bad), **settings)
    assert_equal(guarded, expected)
    assert guarded["global_step"] == 6  # three of the batches are bad
    assert guard.skipped == 3


def test_an_update_of_accumulated_batches_is_skipped_if_one_of_them_is_bad(tmp_path):
    bad = (first_key(0), first_key(3))
    data = batches([0, 1, 2, 3, 4, 5])
    guard = Guard()
    model = Poisoned("nan input", bad)

    guarded = fit(tmp_path / "a", model, data, EMA(), guard, accumulate_grad_batches=2)

    by_hand = LeaveOut(*bad)
    expected = fit(tmp_path / "b", Poisoned(), data, EMA(), by_hand, accumulate_grad_batches=2)
    assert_equal(guarded, expected)
    assert guarded["global_step"] == 3  # of 6 batches, two each
    assert guard.skipped == 2  # those of batches 0 and 1, and of 2 and 3


# -------------------------------------------------------------------------------- refusals


def test_too_many_skipped_updates_in_a_row_stop_the_run(tmp_path):
    guard = Guard(in_a_row=2)
    model = Poisoned("nan loss", (first_key(0), first_key(2), first_key(3)))

    # Batches 2 and 3 are steps 3 and 4; a verdict is read one step later.
    with pytest.raises(ValueError, match=r"after step 5: 2 updates in a row were left out"):
        fit(tmp_path, model, batches([0, 1, 2, 3, 4, 5]), guard)

    assert guard.skipped == 3
    assert guard.rows == {0: 2}  # of the first optimiser, two in a row


def test_weights_that_are_not_finite_are_not_saved(tmp_path):
    """A finite gradient may make a step that is too large."""

    class Leaps(Tiny):
        def configure_optimizers(self):
            return torch.optim.SGD(self.net.parameters(), lr=math.inf)

    run = trainer(tmp_path, Guard(), max_steps=1)
    run.fit(Leaps(), batches([0, 1]))
    with pytest.raises(
        ValueError, match="the weights after step 1 are not finite, so they are not"
    ):
        run.save_checkpoint(tmp_path / "end.ckpt")

    assert not (tmp_path / "end.ckpt").exists()


# -------------------------------------------------------------------- scaler, manual optimisation


class Overflows(Poisoned):
    """The gradient of the loss is 4 times the scaler's scale, rounded to float16."""

    def training_step(self, batch, batch_idx):
        loss = super().training_step(batch, batch_idx)
        return WithGradient.apply(loss, lambda gradient: gradient.half().float()) * 4


def scaled(scale):
    scaler = torch.amp.GradScaler("cpu", init_scale=scale)
    return {"plugins": [MixedPrecision("16-mixed", "cpu", scaler)]}


def test_updates_that_the_scaler_skips_while_it_lowers_its_scale_are_not_counted(tmp_path):
    """A scaler finds its scale by overflows, which are no fault that may stop the run.

    The gradient is 4 times the scale: 4 x 2^15 and 4 x 2^14 = 65,536 are above float16's 65,504, so
    that the scaler halves its scale of 2^15 twice.
    """
    data = batches([0, 1, 2, 3])
    guard = Guard()
    model = Overflows(optimizer=UNFUSED_ADAM)

    guarded = fit(tmp_path / "a", model, data, EMA(), guard, **scaled(2**15))

    by_hand = LeaveOut(first_key(0), first_key(1))
    model = Overflows(optimizer=UNFUSED_ADAM)
    # By a scale that does not overflow; a power of two does not change what is rounded.
    expected = fit(tmp_path / "b", model, data, EMA(), by_hand, **scaled(2**12))
    assert guard.skipped == 0
    assert guarded["MixedPrecision"]["scale"] == 2**13
    assert_equal(guarded, expected)


class Manual(Tiny):
    """Manual optimisation of `net` and of `frozen`, each with an optimiser and a loss of its own.

    Args:
        bad: Number of the batch in which the loss of `frozen` is NaN.
    """

    def __init__(self, bad=None):
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


def test_with_manual_optimisation_each_optimisers_updates_are_judged_alone(tmp_path):
    guard = Guard()

    guarded = fit(tmp_path / "a", Manual(bad=1), batches([0, 1, 2]), guard)

    on_all_batches = fit(tmp_path / "b", Manual(), batches([0, 1, 2]))["state_dict"]
    without_batch_1 = fit(tmp_path / "c", Manual(), batches([0, 2]))["state_dict"]
    weights = guarded["state_dict"]
    assert guard.skipped == 1
    assert guarded["global_step"] == 3 * 2  # batches, optimisers
    assert torch.equal(weights["net.weight"], on_all_batches["net.weight"])
    assert torch.equal(weights["frozen.weight"], without_batch_1["frozen.weight"])


# ------------------------------------------------------------------------------ two processes


class Sharded(Poisoned):
    """A model that two processes train, each on three of six batches."""

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
def test_a_nan_loss_on_one_process_skips_the_update_on_both(tmp_path):
    model = Sharded("nan loss", (first_key(3),))  # the second batch of rank 1

    guarded = fit_on_two(tmp_path / "a", model, EMA(), Guard())

    by_hand = LeaveOut(first_key(2), first_key(3))  # the second update of both ranks
    expected = fit_on_two(tmp_path / "b", Sharded(), EMA(), by_hand)
    for rank in (0, 1):
        assert_equal(guarded[rank], expected[rank])
        assert guarded[rank]["callbacks"]["Guard"]["skipped"] == 1
    for name in ("net.weight", "net.bias", "norm.weight"):  # running statistics differ by process
        assert torch.equal(guarded[0]["state_dict"][name], guarded[1]["state_dict"][name])


def write_own(callbacks, **arguments):
    """A configuration with `SometimesNaN` and callbacks, beside tiny.yaml; return the command."""
    model = {"class_path": "tests.callbacks.broken.SometimesNaN", "init_args": arguments}
    content = {"model": model, "trainer": {"callbacks": callbacks}}
    with open("own.yaml", "w") as file:
        json.dump(content, file)
    return "fit --config tiny.yaml --config own.yaml"


def guard(in_a_row):
    return {"class_path": "callbacks.Guard", "init_args": {"in_a_row": in_a_row}}


@pytest.mark.slow
@pytest.mark.distributed
# FSDP refuses EMA.
@pytest.mark.parametrize(("strategy", "others"), [("ddp", ["callbacks.EMA"]), ("fsdp", [])])
def test_too_many_skipped_updates_end_a_run_of_two_processes(tiny, strategy, others):
    command = write_own([*others, guard(in_a_row=3)], after=5, always=True)
    devices = f"--trainer.devices 2 --trainer.strategy {strategy}"

    _, output = torchrun(f"{command} --run.name a --checkpoint.every_n_steps 5 {devices}")

    # 5 sound updates, 3 of NaN, and one more: a verdict is read one update later.
    assert "error: stopped after step 9: 3 updates in a row were left out" in output
    assert "exitcode  : 2" in output, output  # as torchrun says
    before_torchruns_own, *_ = output.partition("torch/distributed")
    assert "Traceback" not in before_torchruns_own
    saved = newest("a")
    assert saved["global_step"] == 5  # the checkpoint before the stop
    assert all(value.isfinite().all() for value in saved["state_dict"].values())


@pytest.mark.slow
@pytest.mark.distributed
def test_fsdp_skips_the_same_updates_as_ddp(tiny):
    """A process of FSDP has a part of the gradient, which may be finite where another is not."""
    command = write_own([guard(in_a_row=13)])  # never stops: there are 12 steps

    for strategy in ("ddp", "fsdp"):
        devices = f"--trainer.devices 2 --trainer.strategy {strategy}"
        succeeds(f"{command} {devices} --run.name {strategy}")

    ddp = newest("ddp")
    fsdp = newest("fsdp")
    skipped = ddp["callbacks"]["Guard"]["skipped"]
    assert 0 < skipped < 12
    assert fsdp["callbacks"]["Guard"]["skipped"] == skipped
    for part in ("state_dict", "optimizer_states"):
        torch.testing.assert_close(ddp[part], fsdp[part], rtol=0, atol=1e-6)


# ------------------------------------------------------------------------- the command line


@pytest.mark.slow
@pytest.mark.parametrize("hook", ["batch_start", "backward", "batch_end", "validation"])
@pytest.mark.parametrize("batch", [4, 9], ids=["first epoch", "second epoch"])
def test_a_resumed_run_that_skips_updates_equals_an_uninterrupted_one(
    tiny, enlarger, monkeypatch, hook, batch
):
    """A verdict is read one update later, so a checkpoint must count those that are not yet read.

    The run is interrupted at a hook of a batch, and resumes from the checkpoint of the last step.
    """
    command = write_own(["callbacks.EMA", guard(in_a_row=13)])  # never stops: there are 12 steps
    command += " --trainer.val_check_interval 2 --checkpoint.every_n_steps 1"
    command += " --trainer.callbacks+ tests.commands.test_resume.Interruption --run.name"
    enlarger(f"{command} uninterrupted")
    monkeypatch.setattr(Interruption, "hook", hook)
    monkeypatch.setattr(Interruption, "batch", batch)
    with pytest.raises(RuntimeError, match="interrupted"):
        enlarger(f"{command} stopped")

    enlarger(f"{command} stopped")

    assert newest("uninterrupted")["callbacks"]["Guard"]["skipped"] > 2  # of 12 steps
    assert_same("stopped", "uninterrupted")
