"""Two optimisers in turns: against a plain loop, with accumulation, schedules and Guard."""

from __future__ import annotations

import math
from functools import partial

import pytest
import torch
from lightning.pytorch import Callback
from lightning.pytorch.cli import ReduceLROnPlateau
from torch import nn
from torch.nn import functional
from torch.optim.lr_scheduler import ExponentialLR
from torch.testing import assert_close
from torch.utils.data import DataLoader

from callbacks import EMA, Guard
from lightning_modules.adversarial import Adversarial, hinge_discriminator, hinge_generator
from lightning_modules.noise import Noise
from tests import make
from tests.callbacks.tiny import Images, collate, trainer


class Pair(Adversarial):
    """One convolution that makes images, and one that judges them.

    nan: ``generator`` or ``discriminator``, whose second loss is NaN.
    """

    def __init__(self, accumulate=1, clip=None, nan="", schedule=None):
        super().__init__(
            scale=2,
            discriminator=nn.Conv2d(3, 1, 3),
            discriminator_optimizer=partial(torch.optim.Adam, lr=0.02),
            accumulate=accumulate,
            clip=clip,
            optimizer=partial(torch.optim.Adam, lr=0.01),
            lr_scheduler=schedule or partial(ExponentialLR, gamma=0.9),
        )
        self.net = nn.Conv2d(3, 3, 3, padding=1)
        make.fill(self)
        self.nan = nan
        self.batches = 0

    def restore(self, batch, noise):
        return self.net(functional.interpolate(batch["lr"], batch["size"], mode="nearest"))

    def generator_loss(self, batch):
        self.batches += 1
        sr = self.restore(batch, Noise(batch["seed"]))
        loss = functional.mse_loss(sr, batch["hr"])
        loss = loss + 0.1 * hinge_generator([self.discriminator(sr)])
        if self.nan == "generator" and self.batches == 2:
            loss = loss * torch.nan
        return loss, (sr.detach(), batch["hr"])

    def discriminator_loss(self, images):
        sr, hr = images
        loss = hinge_discriminator([self.discriminator(hr)], [self.discriminator(sr)])
        if self.nan == "discriminator" and self.batches == 2:
            loss = loss * torch.nan
        return loss


def batches(count):
    return DataLoader(Images(2 * count), batch_size=2, collate_fn=collate)


def fit(folder, model, data, *callbacks, **settings):
    """Train for an epoch; return the trainer."""
    run = trainer(folder, *callbacks, **settings)
    run.fit(model, data)
    return run


def tensors(model):
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}


def trained_by_a_plain_loop(data, accumulate, clip):
    """The weights after an epoch; a step takes the mean loss of up to `accumulate` batches.

    First the generator is updated, then the discriminator by the images that were made before.
    """
    model = Pair()
    discriminator = model.discriminator
    adam = torch.optim.Adam(model.net.parameters(), lr=0.01)
    adam_of_discriminator = torch.optim.Adam(discriminator.parameters(), lr=0.02)
    schedule = ExponentialLR(adam, 0.9)
    data = list(data)
    for start in range(0, len(data), accumulate):
        chunk = data[start : start + accumulate]
        images = []
        for batch in chunk:
            loss, of_batch = model.generator_loss(batch)
            (loss / len(chunk)).backward()
            images.append(of_batch)
        adam_of_discriminator.zero_grad()  # what the generator's loss left there
        if clip is not None:
            nn.utils.clip_grad_norm_(model.net.parameters(), clip)
        adam.step()
        adam.zero_grad()
        schedule.step()
        for of_batch in images:
            (model.discriminator_loss(of_batch) / len(chunk)).backward()
        if clip is not None:
            nn.utils.clip_grad_norm_(discriminator.parameters(), clip)
        adam_of_discriminator.step()
        adam_of_discriminator.zero_grad()
    return tensors(model)


# Of an epoch of five batches.
@pytest.mark.parametrize(
    ("accumulate", "clip"),
    [(1, None), (2, None), (3, 0.05), (8, 0.05)],
    ids=["none", "1 of 2 batches in the last step", "2 of 3, clipped", "all 5 of 8, clipped"],
)
def test_accumulating_and_clipping_train_as_a_plain_loop_does(tmp_path, accumulate, clip):
    data = batches(5)
    model = Pair(accumulate=accumulate, clip=clip)

    run = fit(tmp_path, model, data)

    assert run.global_step == math.ceil(5 / accumulate)
    tolerance = {"rtol": 0, "atol": 0} if accumulate == 1 else {}  # sums round differently
    assert_close(tensors(model), trained_by_a_plain_loop(data, accumulate, clip), **tolerance)


def test_steps_and_ema_follow_the_generator_alone(tmp_path):
    ema = EMA()
    model = Pair()

    run = fit(tmp_path, model, batches(6), ema, max_steps=4, max_epochs=-1)

    assert run.global_step == 4  # not 8, as both optimisers make
    assert model.batches == 4
    assert ema.updates == 4
    assert ema.state_dict()["weights"].keys() == {"net.weight", "net.bias"}


# Updates of the generator and of the discriminator in three steps.
@pytest.mark.parametrize(("part", "updates"), [("generator", [2, 3]), ("discriminator", [3, 2])])
def test_guard_skips_the_update_of_the_part_with_a_nan_alone(tmp_path, part, updates):
    """The schedule and the count of steps go on."""
    guard = Guard()
    model = Pair(nan=part)

    run = fit(tmp_path, model, batches(3), guard)

    assert guard.skipped == 1
    assert run.global_step == 3
    # The rate and the gamma of Pair.
    assert run.optimizers[0].param_groups[0]["lr"] == pytest.approx(0.01 * 0.9**3)
    for optimizer, count in zip(run.optimizers, updates, strict=True):
        state_of_a_weight = next(iter(optimizer.state.values()))
        assert state_of_a_weight["step"] == count
    assert all(tensor.isfinite().all() for tensor in tensors(model).values())


def test_guard_stops_a_run_whose_discriminator_is_nan(tmp_path):
    # Its second update is left out, and Guard reads that with the third, so as not to wait for it.
    with pytest.raises(ValueError, match="after step 3: 1 updates in a row"):
        fit(tmp_path, Pair(nan="discriminator"), batches(4), Guard(in_a_row=1))


class StopAfterABatch(Callback):
    def on_train_batch_end(self, trainer, *_):
        trainer.should_stop = True


def test_a_fit_that_was_stopped_within_a_step_leaves_nothing_to_the_next(tmp_path):
    """Else gradients and images of the unfinished step would count in the first of the next fit."""
    stopped = Pair(accumulate=2)
    fresh = Pair(accumulate=2)
    run = fit(tmp_path, stopped, batches(4), StopAfterABatch(), min_epochs=0)
    assert run.global_step == 0  # a step has two batches

    fit(tmp_path, stopped, batches(4))
    fit(tmp_path, fresh, batches(4))

    assert_close(tensors(stopped), tensors(fresh), rtol=0, atol=0)


def test_a_schedule_that_monitors_a_value_is_refused(tmp_path):
    """It needs one step an epoch, and Adversarial steps schedules itself, once a step."""
    model = Pair(schedule=partial(ReduceLROnPlateau, monitor="val/psnr"))
    with pytest.raises(ValueError, match="Pair steps its schedule once a step"):
        fit(tmp_path, model, batches(1))
