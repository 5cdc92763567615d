"""Tables of diffusion and of residual shifting: diffusers', and those of papers and releases."""

from __future__ import annotations

import math

import diffusers
import pytest
import torch
from torch.testing import assert_close

from lightning_modules import ResidualShift, Schedule
from lightning_modules.backbone.schedule import CLEAN, spaced
from lightning_modules.sampling.solvers import residual_shift
from tests import make
from tests.make import assert_near


@pytest.mark.parametrize("kind", [Schedule, ResidualShift])
def test_tables_are_the_same_where_a_model_is_built_on_the_meta_device(kind):
    """There tensors have no values, and a checkpoint, which would fill them, has no tables."""
    with torch.device("meta"):
        schedule = kind()
    assert schedule.level(t=7).alpha == kind().level(t=7).alpha


# -------------------------------------------------------------------------------------- diffusion


SD = {"beta_start": 0.00085, "beta_end": 0.012}  # as of Stable Diffusion


@pytest.mark.parametrize("betas", ["linear", "scaled_linear", "squaredcos_cap_v2"])
def test_levels_are_those_of_diffusers(betas):
    schedule = Schedule(steps=1000, **SD, betas=betas)
    theirs = diffusers.DDPMScheduler(num_train_timesteps=1000, **SD, beta_schedule=betas)
    for t in (0, 1, 17, 500, 998, 999):
        alpha, sigma = schedule.level(t)
        # Theirs are computed in float32.
        assert alpha**2 == pytest.approx(theirs.alphas_cumprod[t].item(), rel=2e-4, abs=1e-6)
        assert alpha**2 + sigma**2 == pytest.approx(1, abs=1e-15)
    assert schedule.level(-1) == CLEAN


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
def test_noise_and_clean_samples_are_those_of_diffusers(prediction):
    schedule = Schedule(**SD, betas="scaled_linear", prediction=prediction)
    theirs = diffusers.DDIMScheduler(
        **SD, beta_schedule="scaled_linear", prediction_type=prediction, clip_sample=False
    )
    theirs.set_timesteps(1000)
    x0, eps, raw = make.normal(3, 3, 2, 4, 5)
    t = torch.tensor([3, 400, 990])

    x = schedule.add_noise(x0, eps, t)
    clean = schedule.to_x0(raw, x, t)

    assert_close(x, theirs.add_noise(x0, eps, t), rtol=1e-5, atol=1e-5)
    for i in range(3):
        expected = theirs.step(raw[i], int(t[i]), x[i]).pred_original_sample
        assert_close(clean[i], expected, rtol=1e-4, atol=1e-4)
    if prediction == "v_prediction":
        velocity = theirs.get_velocity(x0, eps, t)
        assert_close(schedule.target(x0, eps, t), velocity, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("count", [1, 4, 15, 999, 1000])
@pytest.mark.parametrize("spacing", ["leading", "trailing"])
def test_spacings_are_those_of_diffusers(count, spacing):
    theirs = diffusers.DDIMScheduler(1000, timestep_spacing=spacing, steps_offset=0)
    theirs.set_timesteps(count)
    assert spaced(1000, count, spacing) == theirs.timesteps.tolist()


def test_a_schedule_from_the_configuration_of_diffusers_has_its_levels_and_prediction():
    theirs = diffusers.EulerDiscreteScheduler(
        **SD, beta_schedule="scaled_linear", prediction_type="v_prediction"
    )
    schedule = Schedule.from_config(dict(theirs.config))
    level = schedule.level(999)
    assert schedule.prediction == "v_prediction"
    assert level.sigma / level.alpha == pytest.approx(theirs.sigmas[0].item(), rel=1e-4)
    # What a configuration lacks has diffusers' default: beta_start, sigma^2 at 0, is 0.0001.
    assert Schedule.from_config({}).level(0).sigma ** 2 == pytest.approx(0.0001)


def test_a_configuration_with_trained_betas_is_refused():
    with pytest.raises(ValueError, match="trained_betas"):
        Schedule.from_config({"trained_betas": [0.1]})


# ------------------------------------------------------------------------------- residual shifting

# sqrt(eta) of each step, as the released code prints it.
FIFTEEN = """0.020000 0.117165 0.176305 0.233629 0.291574 0.351009 0.412356 0.475858 0.541672
0.609910 0.680658 0.753985 0.829951 0.908606 0.990000"""
FOUR = "0.100000 0.520096 0.761382 0.990000"


@pytest.mark.parametrize(("steps", "min_noise", "printed"), [(15, 0.04, FIFTEEN), (4, 0.2, FOUR)])
def test_shifts_are_those_of_the_released_code(steps, min_noise, printed):
    process = ResidualShift(steps, min_noise=min_noise)
    roots = [f"{math.sqrt(process.eta(t)):.6f}" for t in range(steps)]
    assert roots == printed.split()


@pytest.mark.parametrize(
    ("kappa", "form", "first", "last"),
    [
        (2.0, "paper", (0.04 / 2) ** 2, 0.999),
        (1.0, "paper", 0.001, 0.999),
        (1.0, "released", (0.04 / 1) ** 2, 0.99**2),
    ],
)
def test_shifts_run_from_min_noise_over_kappa_squared_to_nearly_1(kappa, form, first, last):
    """In the paper from at most 0.001 to 0.999, in the released code without a limit to 0.99^2."""
    process = ResidualShift(steps=15, kappa=kappa, min_noise=0.04, form=form)
    assert process.eta(0) == pytest.approx(first)
    assert process.eta(14) == pytest.approx(last)


def test_a_chain_of_posteriors_has_the_marginals():
    """With a known x0, x_t is normal: of mean x0 + eta (y - x0) and variance kappa^2 eta.

    A step is linear in x_t, x0 and the noise, so its factor of one of them is its output if that
    is 1 and the others are 0.
    """
    process = ResidualShift(steps=15, kappa=2.0)
    zero = torch.zeros((), dtype=torch.float64)
    one = torch.ones((), dtype=torch.float64)
    x0 = 0.3 * one
    y = -0.9 * one
    mean = x0 + process.eta(14) * (y - x0)
    variance = 2.0**2 * process.eta(14)

    for t in range(14, -1, -1):
        eta = process.eta(t)
        previous = process.eta(t - 1)
        # Arguments: x_t, x0, eta at t and at t - 1.
        factor_of_noise = residual_shift(zero, zero, eta, previous, kappa=2.0, noise=one)
        factor_of_x = residual_shift(one, zero, eta, previous, kappa=2.0, noise=zero)
        mean = residual_shift(mean, x0, eta, previous, kappa=2.0, noise=zero)
        variance = factor_of_x**2 * variance + factor_of_noise**2
        assert_near(mean, x0 + previous * (y - x0), 1e-12)
        assert variance.item() == pytest.approx(2.0**2 * previous, abs=1e-12)
    assert mean == x0


ONES = torch.ones(2, 1, 1, 1, dtype=torch.float64)


def test_inputs_are_divided_by_their_deviation_in_latents_or_by_their_range_in_pixels():
    """With noise of deviation s = kappa sqrt(eta): by sqrt(s^2 + 1), where x0 has deviation 1.

    In pixels by 3 s + 1, where x0 is within -1 and 1, and the noise mostly within -3 s and 3 s.
    """
    t = torch.tensor([0, 14])  # of eta (0.04 / 2)^2 and 0.99^2
    root = torch.tensor([0.02, 0.99], dtype=torch.float64).view(2, 1, 1, 1)
    latent = ResidualShift(steps=15, kappa=2.0, min_noise=0.04, input_scale="latent")
    pixel = ResidualShift(steps=15, kappa=2.0, min_noise=0.04, input_scale="pixel")
    assert_close(latent.scale_input(ONES, t), (2**2 * root**2 + 1) ** -0.5)
    assert_close(pixel.scale_input(ONES, t), 1 / (3 * 2 * root + 1))
    assert_close(pixel.scale_input(ONES[:1], 14), 1 / (3 * 2 * root[1:] + 1))  # one t for all


def test_sampling_starts_from_the_anchor_with_the_noise_of_the_last_timestep():
    """Of deviation kappa sqrt(eta), where sqrt(eta) is 0.99 at the last timestep."""
    assert_close(ResidualShift(kappa=2.0).prior(5 * ONES, eps=ONES), 5 * ONES + 2.0 * 0.99)


PREDICTIONS = ["sample", "epsilon", "scaled_epsilon", "residual"]


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_the_clean_sample_follows_from_x_t_and_what_is_predicted(prediction):
    """Of x_t = (1 - eta) x0 + eta y + kappa sqrt(eta) eps, the conference paper's equation 2."""
    process = ResidualShift(steps=4, kappa=2.0, prediction=prediction)
    x0, anchor, eps = make.normal(3, 4, 3, 2, 2).double()
    t = torch.arange(4)
    eta = process.etas.view(4, 1, 1, 1)
    x_t = (1 - eta) * x0 + eta * anchor + 2 * eta.sqrt() * eps
    predicted = {
        "sample": x0,
        "epsilon": eps,
        "scaled_epsilon": 2 * eta.sqrt() * eps,
        "residual": anchor - x0,
    }[prediction]

    assert_close(process.add_noise(x0, anchor, eps, t), x_t)
    assert_close(process.target(x0, anchor, eps, t), predicted)
    assert_close(process.to_x0(predicted, x_t, t, anchor), x0)
    for step in range(4):  # as in sampling, with one timestep for all
        clean = process.to_x0(predicted[step], x_t[step], step, anchor[step])
        assert_close(clean, x0[step])


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_the_squared_error_of_scaled_noise_is_divided_by_its_variance_and_no_other(prediction):
    """By kappa^2 eta, as released, so that errors of all timesteps count alike."""
    process = ResidualShift(steps=4, min_noise=0.2, prediction=prediction)
    x0, anchor, eps, raw = make.normal(4, 4, 3, 2, 2)
    t = torch.arange(4)

    loss = process.loss(raw, x0, anchor, eps, t)

    errors = (raw - process.target(x0, anchor, eps, t)).square().mean((1, 2, 3))
    if prediction == "scaled_epsilon":
        errors = errors / torch.tensor([process.level(step).sigma ** 2 for step in range(4)])
    assert_close(loss, errors.mean())
