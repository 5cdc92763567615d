"""What every method gets: optimisers, randomness, checkpoints, weights, checked outputs."""

from __future__ import annotations

import copy
from functools import partial

import pytest
import torch
from lightning.pytorch import Callback
from lightning.pytorch.cli import ReduceLROnPlateau
from torch import nn
from torch.testing import assert_close
from torch.utils.data import DataLoader

from callbacks.training.ema import EMA
from lightning_modules import EDSR, IMDN, ImageModel, Regression
from lightning_modules.optimisation import optimizer_of
from tests import make
from tests.datamodules.memory import trainer
from tests.make import batch_of


def batches(count=10):
    data = [batch_of(2, side=4, name=f"b{number}") for number in range(count)]
    return DataLoader(data, batch_size=None, collate_fn=dict)


def fit(folder, model, *callbacks, **settings):
    """Train on ten batches an epoch; return the trainer."""
    run = trainer(folder, callbacks=list(callbacks), **({"max_epochs": 1} | settings))
    run.fit(model, batches())
    return run


SGD = partial(torch.optim.SGD, lr=1.0)


class Line(ImageModel):
    """Plain gradient descent of one number; notes what a step draws."""

    def __init__(self):
        super().__init__(scale=1, optimizer=partial(torch.optim.SGD, lr=0.5))
        self.weight = nn.Parameter(torch.zeros(()))
        self.drawn = []

    def training_step(self, batch, batch_idx):
        self.drawn.append(torch.rand(()).item())
        return (self.weight - batch["hr"].mean()).square()


# ---------------------------------------------------------------------------------------- training


def test_each_epoch_draws_new_noise_for_the_same_images(tmp_path):
    """Though the images' seeds are the same in each epoch."""
    model = Line()
    fit(tmp_path, model, max_epochs=3)
    assert len(set(model.drawn)) == 30  # three epochs of ten batches


def test_training_leaves_torchs_generator_as_it_was(tmp_path):
    torch.manual_seed(0)
    expected = torch.rand(())
    torch.manual_seed(0)

    fit(tmp_path, Line())

    assert torch.equal(torch.rand(()), expected)


def test_schedules_are_stepped_once_a_step(tmp_path):
    schedule = partial(torch.optim.lr_scheduler.StepLR, step_size=1, gamma=0.5)
    model = make.Model(optimizer=SGD, lr_scheduler=schedule)
    run = fit(tmp_path, model, accumulate_grad_batches=2)
    (optimizer,) = run.optimizers
    assert optimizer.param_groups[0]["lr"] == 0.5**5  # ten batches are five steps


class Measure(Callback):
    """Logs the same value at each validation, and notes each batch's learning rate."""

    def __init__(self):
        self.rates = []

    def on_validation_epoch_end(self, trainer, pl_module):
        pl_module.log("val/psnr", 1.0)

    def on_train_batch_start(self, trainer, *args):
        self.rates.append(trainer.optimizers[0].param_groups[0]["lr"])


def test_a_schedule_that_monitors_validation_is_stepped_once_an_epoch(tmp_path):
    schedule = partial(ReduceLROnPlateau, monitor="val/psnr", factor=0.5, patience=0)
    measure = Measure()
    run = trainer(tmp_path, callbacks=[measure], max_epochs=3, limit_val_batches=1)
    run.fit(make.Model(optimizer=SGD, lr_scheduler=schedule), batches(2), batches(2))
    # Three epochs of two batches: the second value is no better, so the third epoch has half.
    assert measure.rates == [1, 1, 1, 1, 0.5, 0.5]


def test_a_schedule_that_monitors_training_is_refused():
    """Each rank has a loss of its own, so that their learning rates would differ."""
    model = make.Model(lr_scheduler=partial(ReduceLROnPlateau, monitor="train/loss"))
    with pytest.raises(ValueError, match=r"lr_scheduler monitors train/loss: .*val/psnr"):
        model.configure_optimizers()


@pytest.mark.parametrize(
    ("accumulate", "batches_an_epoch", "clip"),
    [(4, 10, None), (12, 10, None), (4, 6, 0.01)],
    ids=["2 of 4 batches in the last step", "fewer than a step accumulates", "clipped"],
)
def test_the_last_step_of_an_epoch_averages_over_the_batches_that_are_left(
    tmp_path, accumulate, batches_an_epoch, clip
):
    """As in a plain loop, where a step takes the mean loss of its batches.

    Lightning divides by `accumulate` also where fewer are left.
    """
    model = Line()
    fit(
        tmp_path,
        model,
        max_epochs=2,
        limit_train_batches=batches_an_epoch,
        accumulate_grad_batches=accumulate,
        gradient_clip_val=clip,
    )

    plain = Line()
    optimizer = torch.optim.SGD(plain.parameters(), lr=0.5)
    epoch = list(batches())[:batches_an_epoch]
    for _ in range(2):
        for start in range(0, batches_an_epoch, accumulate):
            losses = []
            for batch in epoch[start : start + accumulate]:
                losses.append(plain.training_step(batch, 0))
            optimizer.zero_grad()
            torch.stack(losses).mean().backward()
            if clip is not None:
                nn.utils.clip_grad_norm_(plain.parameters(), clip)
            optimizer.step()
    assert_close(model.weight, plain.weight)


def after_a_step(layout, state=None):
    """The weights and the state of a fused optimiser after a step from a state."""
    net = make.fill(nn.Conv2d(3, 4, 3)).to(memory_format=layout)
    optimizer = optimizer_of(partial(torch.optim.AdamW, fused=True), net.parameters())
    if state is not None:
        optimizer.load_state_dict(state)
    net(make.uniform(1, 3, 5, 5)).square().sum().backward()
    optimizer.step()
    return net.weight, optimizer.state_dict()


def test_a_fused_optimiser_resumes_with_weights_of_another_memory_layout():
    """It reads weights and states in memory order, whatever their strides are."""
    _, state = after_a_step(torch.contiguous_format)
    expected, _ = after_a_step(torch.contiguous_format, copy.deepcopy(state))
    weight, _ = after_a_step(torch.channels_last, copy.deepcopy(state))
    assert_close(weight, expected)


class WithAnother(Regression):
    """Adds a part, and inherits the names of those that train."""

    def __init__(self):
        super().__init__(2, make.Convolution)
        self.another = nn.Conv2d(3, 3, 1)


def test_a_part_that_a_subclass_does_not_name_is_frozen_with_a_warning(caplog):
    model = WithAnother()
    assert not any(parameter.requires_grad for parameter in model.another.parameters())
    assert "another of" in caplog.text
    assert "to train it, name it in trained_parts" in caplog.text


# ------------------------------------------------------------------------------------- checkpoints

PARAMETERS = {"net.0.weight", "net.0.bias", "net.1.weight", "net.1.bias"}
PARAMETERS |= {"tail.weight", "tail.bias"}
STATISTICS = ("running_mean", "running_var", "num_batches_tracked")
STATE = PARAMETERS | {"seen"}  # a buffer of the model itself
STATE |= {f"net.1.{name}" for name in STATISTICS} | {f"whiten.{name}" for name in STATISTICS}


def test_a_checkpoint_holds_parameters_and_buffers_but_nothing_of_the_frozen_part(tmp_path):
    """Which may be gigabytes, and has its own file. EMA averages what trains: the parameters.

    The model has trained layers, `net` and `tail`, a norm without parameters, `whiten`, `frozen`,
    and a buffer that is not persistent, `derived`.
    """
    fit(tmp_path, make.Model(), EMA(decay=0.9)).save_checkpoint(tmp_path / "step.ckpt")
    content = torch.load(tmp_path / "step.ckpt", weights_only=True)
    assert content["state_dict"].keys() == STATE
    assert content["callbacks"]["EMA"]["weights"].keys() == PARAMETERS
    assert content["model"] == "tests.make.Model"


class Unusual(ImageModel):
    """Tied weights, parameters of its own, adapters inside a frozen network."""

    def __init__(self):
        super().__init__(scale=2)
        self.own = nn.Parameter(torch.zeros(2))
        self.fixed = nn.Parameter(torch.zeros(2), requires_grad=False)
        self.register_buffer("mean", torch.zeros(2))
        self.first = nn.Linear(3, 3, bias=False)
        self.second = nn.Linear(3, 3, bias=False)
        self.second.weight = self.first.weight
        self.frozen = nn.Linear(3, 3).requires_grad_(False)
        self.frozen.source = ""  # as of parts whose weights come from a file
        self.head = nn.Linear(3, 3)
        self.head.weight = self.frozen.weight
        self.adapted = nn.ModuleDict({"base": nn.Linear(3, 3), "lora": nn.Linear(3, 1)})
        self.adapted["base"].requires_grad_(False)
        self.filter = nn.Module()
        self.filter.register_buffer("kernel", torch.ones(3))

    def training_step(self, batch, batch_idx): ...


def test_a_checkpoint_leaves_out_only_frozen_networks_from_files():
    left_out = {"frozen.weight", "frozen.bias"}  # head.weight, the same tensor, stays
    model = Unusual()
    assert model.checkpoint_keys() == [name for name in model.state_dict() if name not in left_out]


# ----------------------------------------------------------------------------------------- weights


def test_weights_that_fit_in_part_are_loaded_and_the_others_listed(tmp_path, caplog):
    """EDSR of x4 from one of x2, which has a convolution less."""
    of_x2 = EDSR(scale=2, blocks=1, channels=8).state_dict()
    torch.save({"params": of_x2 | {"extra": torch.ones(2, 3)}}, tmp_path / "x2.pth")
    model = Regression(4, partial(EDSR, blocks=1, channels=8))

    model.load_weights(tmp_path / "x2.pth", strict=False)

    # The second enlargement by 2, from 8 channels to 4 x 8.
    missing = ["network.tail.0.2.weight 32x8x3x3", "network.tail.0.2.bias 32"]
    record = model.partly_loaded
    assert record["taken"] == len(of_x2)
    assert record["as initialised, as the file lacks them"] == missing
    assert record["of the file and not used"] == ["network.extra 2x3"]
    assert missing[0] in caplog.text
    for name, tensor in of_x2.items():
        assert torch.equal(model.network.state_dict()[name], tensor)


def test_weights_of_which_no_tensor_fits_are_refused(tmp_path):
    torch.save(EDSR(scale=2, blocks=1, channels=8).state_dict(), tmp_path / "edsr.pth")
    with pytest.raises(ValueError, match=r"no tensor of .* fits"):
        Regression(2, IMDN).load_weights(tmp_path / "edsr.pth", strict=False)


# ----------------------------------------------------------------------------------------- outputs


class Fixed(make.Model):
    """Returns what it is given."""

    def __init__(self, output, scale=2.0):
        super().__init__(scale)
        self.output = output

    def restore(self, batch, noise):
        return self.output


@pytest.mark.parametrize(
    "shape", [(1, 3, 24, 16), (3, 12, 16)], ids=["rows enlarged by 4", "no dimension of the batch"]
)
def test_an_output_of_another_size_is_refused(shape):
    made = "x".join(map(str, shape))
    message = rf"Fixed made {made} of a/0, expected 1x3x12x16: its scale is 2; set"
    with pytest.raises(ValueError, match=message):  # LR is 6 x 8
        Fixed(torch.zeros(shape), scale=2.0).validation_step(batch_of(1, side=6), 0)


def test_infinite_pixels_become_nan():
    """Clamped, they would be white or black, and look like an image."""
    output = torch.full((1, 3, 12, 16), 0.5)
    output[:, 0] = torch.inf
    output[:, 1, 0] = -torch.inf

    sr = Fixed(output).enlarge(batch_of(1, side=6))["sr"]

    assert sr[:, 0].isnan().all()
    assert sr[:, 1, 0].isnan().all()
    assert (sr[:, 1, 1:] == 0.5).all()
