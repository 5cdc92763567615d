"""CasArbi: the plan of its stages, its equations, its cascade, its base."""

from __future__ import annotations

import itertools
import math
from functools import partial
from unittest.mock import patch

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.testing import assert_close

from degradations.bicubic import resize
from lightning_modules import LIIF, AnySize, CasArbi, ResidualShift
from lightning_modules.loading import file_of
from lightning_modules.methods import casarbi
from lightning_modules.methods.casarbi import ShiftSampling, Stages
from lightning_modules.noise import Noise
from tests import make
from tests.make import assert_near

BASE = partial(LIIF, blocks=1, channels=8, hidden=(16,), global_skip=True)
SIGMA = 0.1  # sigma_r of all cascades here
SOLVERS = ["posterior", "ddim", "dpm_solver_2m"]
ORDERS = ["remainder_last", "remainder_first", "uniform"]


# ------------------------------------------------------------------------------------ the stages


@pytest.mark.parametrize(
    ("side", "target", "stages", "expected"),
    [
        # 192 / 16 is 12: three full stages of x2, and a remainder of x1.5.
        pytest.param(16, 192, Stages(2, "remainder_last"), [32, 64, 128, 192], id="last"),
        pytest.param(16, 192, Stages(2, "remainder_first"), [24, 48, 96, 192], id="first"),
        # Four equal stages of the fourth root of 12, 1.86.
        pytest.param(16, 192, Stages(2, "uniform"), [30, 55, 103, 192], id="uniform"),
        # Three stages of x10, although log(1000) / log(10) is 2.9999999999999996 in floats.
        pytest.param(2, 2000, Stages(10), [20, 200, 2000], id="whole power"),
        pytest.param(10, 15, Stages(2), [15], id="less than a full stage"),
        pytest.param(10, 20, Stages(2), [20], id="one full stage"),
        pytest.param(10, 10, Stages(2), [], id="same size, no stage"),
    ],
)
def test_an_enlargement_has_full_stages_and_a_remainder(side, target, stages, expected):
    """`Stages(fixed, order)`: the factor of a full stage, and where the remainder goes."""
    sizes = stages.sizes((side, side), (target, target))
    assert sizes == [(height, height) for height in expected]


@pytest.mark.parametrize("order", ORDERS)
def test_a_remainder_of_half_a_pixel_is_no_stage(order):
    """A side of 33 times 1.5 is 49.5, and the target 50.

    Else a whole stage, with all of its network calls, would enlarge by the missing half pixel.
    """
    stages = Stages(fixed=1.5, order=order)
    assert stages.sizes((33, 33), (50, 50)) == [(50, 50)]
    assert stages.sizes((33, 35), (50, 52)) == [(50, 52)]  # 35 times 1.5 is 52.5
    assert len(stages.sizes((33, 35), (74, 79))) == 2  # 74.25 and 78.75 by 1.5 twice


def test_stages_enlarge_each_side_only_by_its_own_ratio():
    stages = Stages(fixed=2)
    # Height x2, width x8: the height has its size after the first stage.
    assert stages.sizes((10, 10), (20, 80)) == [(20, 20), (20, 40), (20, 80)]
    # Height x3.5, width x2.5: both by 2, then by what each lacks, 1.75 and 1.25.
    assert stages.sizes((10, 20), (35, 50)) == [(20, 40), (35, 50)]
    # The width alone, by 1.5.
    assert stages.sizes((10, 20), (10, 30)) == [(10, 30)]


@given(
    h=st.integers(1, 60),
    w=st.integers(1, 60),
    rows=st.floats(1, 20),
    columns=st.floats(1, 20),
    fixed=st.sampled_from([1.5, 2, 3, 4]),
    order=st.sampled_from(ORDERS),
)
def test_stages_of_at_most_the_fixed_factor_end_at_the_target(h, w, rows, columns, fixed, order):
    """The network is trained for factors up to the fixed one, and each stage costs its calls."""
    target = (math.floor(h * rows + 0.5), math.floor(w * columns + 0.5))

    plan = [(h, w), *Stages(fixed, order).sizes((h, w), target)]

    assert plan[-1] == target
    assert (len(plan) == 1) == (target == (h, w))  # no stage only for the same size
    for before, after in itertools.pairwise(plan):  # (h, w) of one stage and of the next
        for side, larger in zip(before, after, strict=True):
            # Rounding to whole pixels changes both sides by up to 0.5.
            assert side <= larger <= fixed * (side + 0.5) + 0.5
    ratio = max(target[0] / h, target[1] / w)
    assert len(plan) <= 1 + math.ceil(math.log(ratio, fixed))  # the input, and the fewest stages


# --------------------------------------------------------------------------------- the equations


def zeros(x, *_):
    return torch.zeros_like(x)


def cascade(answer=zeros, **settings):
    """A cascade of x2 whose sigma_r is SIGMA, and whose network returns `answer(...)`."""
    torch.manual_seed(0)
    model = CasArbi(2.0, BASE, network=make.Answering(answer), **settings)
    model.sigma_r.fill_(SIGMA)
    return make.quiet(model).eval()


def restored(model, batch):
    return model.restore(batch, Noise(batch["seed"]))


@pytest.fixture
def batch():
    return make.pairs(lr=(12, 8), scale=2)


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("timesteps", [None, [14, 7, 4, 2, 1, 0]])
@pytest.mark.parametrize("domain", ["residual", "image"])
def test_sampling_ends_at_the_hr_that_the_network_predicts(batch, solver, timesteps, domain):
    """After a call at each of its timesteps."""
    hr = batch["hr"] * 2 - 1

    def answer(x, t, base, *_):
        return hr if domain == "image" else (hr - base) / SIGMA

    model = cascade(answer, sampling=ShiftSampling(timesteps, solver), domain=domain)

    sr = restored(model, batch)

    assert_near(sr, batch["hr"], 1e-5)
    called = [int(t[0]) for x, t, *_ in model.network.calls]
    assert called == (timesteps or list(range(14, -1, -1)))  # by default all 15 of ResShift


@pytest.mark.parametrize("domain", ["residual", "image"])
def test_the_network_gets_the_start_of_sampling_with_deviation_1(batch, domain):
    model = cascade(domain=domain)

    restored(model, batch)

    first_input = model.network.calls[0][0]
    assert first_input.std().item() == pytest.approx(1, abs=0.1)


def test_each_stage_starts_from_noise_of_its_own(batch):
    """Stage n draws from stream n, so targets that share a stage share its output."""
    model = cascade(stages=Stages(fixed=1.5))  # two stages to x2

    restored(model, batch)

    # Sampling begins at timestep 14, the last of 15 counted from 0.
    starts = [x for x, t, *_ in model.network.calls if t[0] == 14]
    assert len(starts) == 2
    for number, x in enumerate(starts):
        noise = Noise(batch["seed"]).stream(number).normal(x.shape)
        assert_close(x / x.std(), noise / noise.std())


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("domain", ["residual", "image"])
def test_relative_noise_is_absolute_noise_in_units_of_sigma_r(batch, solver, domain):
    def answer(x, t, *_):  # depends on both, so that each step of sampling counts
        return 0.5 * x + 0.01 * t.view(-1, 1, 1, 1)

    losses = []
    outputs = []
    for process in (
        ResidualShift(kappa=4.0, min_noise=0.34, relative=True),
        ResidualShift(kappa=4.0 * SIGMA, min_noise=0.34 * SIGMA),
    ):
        sampling = ShiftSampling(solver=solver)
        model = cascade(answer, process=process, domain=domain, sampling=sampling)
        torch.manual_seed(0)
        losses.append(model.training_step(batch, 0))
        outputs.append(restored(model, batch))

    assert_close(losses[0], losses[1])
    assert_near(outputs[0], outputs[1], 1e-5)


def test_the_loss_is_in_units_of_sigma_r(batch):
    model = cascade(noise_probability=0.0)
    base, _ = model.base_output(batch["lr"], batch["size"])
    residual = batch["hr"] * 2 - 1 - base

    assert_close(model.training_step(batch, 0), (residual / SIGMA).square().mean())
    model.network.answer = lambda *_: residual / SIGMA
    assert model.training_step(batch, 0) < 1e-8


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_sigma_r_is_measured_without_batches_that_are_not_finite(batch, bad, monkeypatch):
    """Else one broken image would make sigma_r NaN, and with it each loss of the run."""
    model = cascade()
    monkeypatch.setattr(model, "all_gather", lambda value: value)  # of a single process
    broken = batch | {"lr": torch.full_like(batch["lr"], bad)}

    # The batches of a trainer, which this model lacks.
    monkeypatch.setattr(casarbi, "first_batches", lambda *_: [batch])
    expected = model._measure_sigma_r()
    monkeypatch.setattr(casarbi, "first_batches", lambda *_: [broken, batch])

    assert torch.equal(model._measure_sigma_r(), expected)


def test_training_adds_noise_to_a_share_of_the_inputs_and_tells_the_network_its_level():
    """Later stages get the imperfect output of earlier ones, which the noise stands for."""
    model = cascade(noise_probability=0.5)
    batch = make.pairs(lr=(12, 8), scale=2, count=64)
    torch.manual_seed(3)

    with patch.object(model.base, "encode", wraps=model.base.encode) as encode:
        model.training_step(batch, 0)

    (noisy_lr,) = encode.call_args.args
    levels = model.network.calls[0][-1]
    deviations = (noisy_lr - batch["lr"]).flatten(1).std(1)
    assert_close(2 * deviations, levels, rtol=0.2, atol=0)  # levels are of values in [-1, 1]
    assert 0.3 < (levels > 0).float().mean() < 0.7  # 0.5, and three standard errors of 64 images
    assert levels[levels > 0].min() < 0.05 < levels.max() <= 0.1  # drawn from 0 to 0.1


def test_with_guidance_the_shrunk_output_is_nearer_to_lr(batch):
    """Guidance adds to each prediction what it lacks of LR; here the network always predicts 1."""
    # Half the contrast, so that the corrected output stays within 0 and 1.
    batch["lr"] = resize(batch["hr"], (12, 8)) * 0.5 + 0.25
    errors = {}
    for guidance in (0.0, 1.0):
        sampling = ShiftSampling(guidance=guidance)
        model = cascade(lambda x, *_: torch.ones_like(x), sampling=sampling)
        shrunk = resize(restored(model, batch), (12, 8))
        errors[guidance] = (shrunk - batch["lr"]).square().mean()

    assert errors[1.0] < 0.1 * errors[0.0]


# -------------------------------------------------------------------------------------- the base


def test_without_a_network_the_base_is_applied_stage_by_stage():
    model = CasArbi(3.5, BASE).eval()
    batch = make.lr_batch(8, 8, scale=3.5)
    noise = Noise(batch["seed"])

    sr = model.restore(batch, noise)

    # By the fixed factor, 2, and then to 3.5 · 8.
    first = model.base(batch["lr"], (16, 16)).clamp(0, 1)
    second = model.base(first, (28, 28)).clamp(0, 1)
    assert_near(sr, second, 1e-6)
    assert not noise.drew


class Published(make.Convolution):
    """A network of x2 that loads its weights itself, as Spandrel does."""

    weights_source = "my/swinir.pth"


def no_file(key, value):
    pytest.fail("it looked for a file")


def test_a_base_that_loads_its_own_weights_needs_no_file():
    model = CasArbi(2.0, partial(AnySize, network=Published))
    model.load_parts(no_file)
    assert model.weights_source == "my/swinir.pth"


def test_a_base_without_weights_is_refused_unless_files_are_found_by_file_of():
    """`file_of` finds the files of models that are built in Python, whose base may be trained.

    Commands have finders of their own, and from a random base they would train for nothing.
    """
    with pytest.raises(ValueError, match="CasArbi needs a trained base"):
        CasArbi(2.0, BASE).load_parts(no_file)
    CasArbi(2.0, BASE).load_parts(file_of)
