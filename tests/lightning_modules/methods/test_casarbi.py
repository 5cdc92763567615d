"""CasArbi: the plan of its stages, its equations, its cascade, its base."""

from __future__ import annotations

import itertools
import math
from functools import partial

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.testing import assert_close

from degradations.bicubic import resize
from lightning_modules.backbone.shifting import ResidualShift
from lightning_modules.methods import casarbi
from lightning_modules.methods.casarbi import CasArbi, ShiftSampling, Stages
from lightning_modules.networks.liif import LIIF, AnySize
from lightning_modules.noise import Noise
from tests import make
from tests.make import assert_near

BASE = partial(LIIF, blocks=1, channels=8, hidden=(16,), global_skip=True)
SIGMA = 0.1  # sigma_r of all cascades here
SOLVERS = ["posterior", "ddim", "dpm_solver_2m"]
ORDERS = ["remainder_last", "remainder_first", "uniform"]


# ------------------------------------------------------------------------------------ the stages


def sides(side, scale, fixed, order="remainder_last"):
    """Sides of the stages of a square input."""
    target = math.floor(side * scale + 0.5)
    sizes = Stages(fixed, order).sizes((side, side), (target, target))
    return [height for height, _ in sizes]


@pytest.mark.parametrize(
    ("side", "scale", "fixed", "expected"),
    [
        (16, 12, 2, [32, 64, 128, 192]),
        (16, 5.3, 2, [32, 64, 85]),
        (48, 17, 4, [192, 768, 816]),
        (20, 125, 5, [100, 500, 2500]),  # floor(log 125 / log 5) is 2 in floating point
        (10, 1.5, 2, [15]),
        (10, 2, 2, [20]),
        (10, 1, 2, []),
    ],
)
def test_full_stages_come_first_and_the_remainder_last(side, scale, fixed, expected):
    assert sides(side, scale, fixed) == expected


def test_the_other_orders():
    assert sides(16, 12, 2, "remainder_first") == [24, 48, 96, 192]
    assert sides(16, 12, 2, "uniform") == [30, 55, 103, 192]


@pytest.mark.parametrize("order", ORDERS)
def test_a_rounded_target_has_no_further_stage(order):
    stages = Stages(1.5, order)
    assert stages.sizes((33, 33), (50, 50)) == [(50, 50)]  # 49.5
    assert stages.sizes((33, 35), (50, 52)) == [(50, 52)]  # 52.5
    assert len(stages.sizes((33, 35), (74, 79))) == 2  # 74.25 and 78.75


def test_each_side_has_its_own_ratio():
    assert Stages(2).sizes((10, 10), (20, 80)) == [(20, 20), (20, 40), (20, 80)]
    assert Stages(2).sizes((10, 20), (35, 50)) == [(20, 40), (35, 50)]
    assert Stages(2).sizes((10, 20), (10, 30)) == [(10, 30)]


@given(
    st.tuples(st.integers(1, 60), st.integers(1, 60)),
    st.tuples(st.floats(1, 20), st.floats(1, 20)),
    st.sampled_from([1.5, 2, 3, 4]),
    st.sampled_from(ORDERS),
)
def test_any_plan_ends_at_the_target_by_stages_of_the_fixed_factor(size, scales, fixed, order):
    target = tuple(math.floor(side * scale + 0.5) for side, scale in zip(size, scales, strict=True))

    plan = Stages(fixed, order).sizes(size, target)

    assert [size, *plan][-1] == target
    assert (plan == []) == (target == size)
    for before, after in itertools.pairwise([size, *plan]):
        for side, larger in zip(before, after, strict=True):
            assert side <= larger <= fixed * side + fixed + 1  # rounded twice
    ratio = max(target[0] / size[0], target[1] / size[1])
    assert len(plan) <= math.ceil(math.log(ratio, fixed)) + 2


# --------------------------------------------------------------------------------- the equations


class Oracle(nn.Module):
    """A network that predicts `answer(base)`, and notes timesteps and noise levels."""

    def __init__(self, answer):
        super().__init__()
        self.answer = answer
        self.weight = nn.Parameter(torch.zeros(()))
        self.timesteps = []
        self.levels = []

    def forward(self, x, t, base, features, lr_size, noise_level, boxes=None):
        self.timesteps.append(int(t[0]))
        self.levels.append(noise_level)
        return self.answer(base)


class Half(nn.Module):
    """Predicts half of what it sees, so that what happens on the way matters."""

    def forward(self, x, t, *_):
        return 0.5 * x + 0.01 * t.view(-1, 1, 1, 1)


def cascade(answer=torch.zeros_like, **settings):
    """A cascade of x2 whose sigma_r is measured."""
    torch.manual_seed(0)
    model = CasArbi(2.0, BASE, network=Oracle(answer), **settings)
    model.sigma_r.fill_(SIGMA)
    return make.quiet(model).eval()


def restored(model, batch):
    return model.restore(batch, Noise(batch["seed"]))


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("timesteps", [None, [14, 7, 4, 2, 1, 0], [14]])
def test_the_last_step_gives_what_the_network_predicts(solver, timesteps):
    batch = make.pairs((12, 8), 2)
    hr = batch["hr"] * 2 - 1
    sampling = ShiftSampling(timesteps, solver)
    model = cascade(lambda base: (hr - base) / SIGMA, sampling=sampling)

    sr = restored(model, batch)

    assert_near(sr, batch["hr"], 1e-5)
    assert model.network.timesteps == (timesteps or list(range(14, -1, -1)))


def test_in_the_image_domain_the_network_predicts_the_image():
    batch = make.pairs((12, 8), 2)
    model = cascade(lambda base: batch["hr"] * 2 - 1, domain="image")

    sr = restored(model, batch)

    assert_near(sr, batch["hr"], 1e-5)


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("domain", ["residual", "image"])
def test_relative_noise_is_absolute_noise_in_units_of_sigma_r(solver, domain):
    processes = [
        ResidualShift(kappa=4.0, min_noise=0.34, relative=True),
        ResidualShift(kappa=4.0 * SIGMA, min_noise=0.34 * SIGMA),
    ]
    losses = []
    outputs = []
    for process in processes:
        sampling = ShiftSampling(solver=solver)
        model = cascade(process=process, domain=domain, sampling=sampling)
        model.network = Half()
        batch = make.pairs((12, 8), 2)
        torch.manual_seed(0)
        losses.append(model.training_step(batch, 0))
        outputs.append(restored(model, batch))

    assert_close(losses[0], losses[1])
    assert_near(outputs[0], outputs[1], 1e-5)


def test_the_loss_is_in_units_of_sigma_r():
    batch = make.pairs((12, 8), 2)
    model = cascade(noise_probability=0.0)
    base, _ = model.base_output(batch["lr"], batch["size"])
    residual = batch["hr"] * 2 - 1 - base

    loss = model.training_step(batch, 0)

    assert_close(loss, (residual / SIGMA).square().mean())
    model.network.answer = lambda base: residual / SIGMA
    assert model.training_step(batch, 0) < 1e-8


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_a_batch_that_is_not_finite_does_not_count_for_sigma_r(bad, monkeypatch):
    """``callbacks.Guard`` leaves it out of training, too."""
    model = cascade()
    monkeypatch.setattr(model, "all_gather", lambda value: value)
    batch = make.pairs((12, 8), 2)
    broken = batch | {"lr": torch.full((2, 3, 12, 8), bad)}

    monkeypatch.setattr(casarbi, "first_batches", lambda *_: [batch])
    expected = model._measure_sigma_r()
    monkeypatch.setattr(casarbi, "first_batches", lambda *_: [broken, batch])

    assert torch.equal(model._measure_sigma_r(), expected)


def test_noise_is_added_to_a_share_of_the_inputs_and_the_network_knows_its_level():
    model = cascade(noise_probability=0.5)
    torch.manual_seed(3)

    model.training_step(make.pairs((12, 8), 2, count=64), 0)

    (levels,) = model.network.levels
    assert 0.3 < (levels > 0).float().mean() < 0.7
    assert 0.05 < levels.max() <= 0.1


def test_guidance_brings_the_output_back_to_its_input():
    batch = make.pairs((16, 16), 2)
    batch["lr"] = resize(batch["hr"], (16, 16)) * 0.5 + 0.25
    errors = []
    for guidance in (0.0, 1.0):
        model = cascade(torch.ones_like, sampling=ShiftSampling(guidance=guidance))
        smaller = resize(restored(model, batch), (16, 16))
        errors.append((smaller - batch["lr"]).square().mean())

    assert errors[1] < 0.1 * errors[0]


# -------------------------------------------------------------------------------------- the base


def test_without_a_network_the_base_is_applied_stage_by_stage():
    model = CasArbi(3.5, BASE).eval()
    batch = make.batch(2, (28, 28), lr=(3, 8, 8))
    noise = Noise(batch["seed"])

    sr = model.restore(batch, noise)

    first = model.base(batch["lr"], (16, 16)).clamp(0, 1)
    second = model.base(first, (28, 28)).clamp(0, 1)
    assert_near(sr, second, 1e-6)
    assert not noise.drew


class Published(make.Convolution):
    """A network of x2 that loads its weights itself, as Spandrel does."""

    weights_source = "my/swinir.pth"


def test_a_base_needs_weights_of_a_file_or_of_its_own():
    def find(key, value):
        pytest.fail("it looked for a file")

    model = CasArbi(2.0, partial(AnySize, network=Published))
    model.load_parts(find)
    assert model.weights_source == "my/swinir.pth"
    with pytest.raises(ValueError, match="CasArbi needs a trained base"):
        CasArbi(2.0, BASE).load_parts(find)
