"""The tables of diffusion, against diffusers and against closed forms."""

from __future__ import annotations

import diffusers
import pytest
import torch

from lightning_modules.backbone.schedule import CLEAN, Schedule, spaced

KINDS = ["linear", "scaled_linear", "squaredcos_cap_v2"]
PREDICTIONS = ["epsilon", "v_prediction", "sample"]
SHAPE = (3, 2, 4, 5)


@pytest.mark.parametrize("betas", KINDS)
def test_tables_are_those_of_diffusers(betas):
    ours = Schedule(1000, 0.00085, 0.012, betas, "v_prediction")
    theirs = diffusers.DDPMScheduler(1000, 0.00085, 0.012, betas, prediction_type="v_prediction")
    for t in (0, 1, 17, 500, 998, 999):
        alpha, sigma = ours.level(t)
        # theirs are made in float32
        assert alpha**2 == pytest.approx(theirs.alphas_cumprod[t].item(), rel=2e-4, abs=1e-6)
        assert alpha**2 + sigma**2 == pytest.approx(1, abs=1e-15)
    assert ours.level(-1) == CLEAN


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_noise_target_and_x0_are_those_of_diffusers(prediction):
    ours = Schedule(prediction=prediction)
    theirs = diffusers.DDIMScheduler(
        1000, 0.00085, 0.012, "scaled_linear", prediction_type=prediction, clip_sample=False
    )
    x0, eps = torch.randn(2, *SHAPE, generator=torch.Generator().manual_seed(0)).unbind(0)
    t = torch.tensor([3, 400, 990])
    x = ours.add_noise(x0, eps, t)
    torch.testing.assert_close(x, theirs.add_noise(x0, eps, t), rtol=1e-5, atol=1e-5)
    raw = torch.randn(SHAPE, generator=torch.Generator().manual_seed(1))
    for i in range(3):
        theirs.set_timesteps(1000)
        said = theirs.step(raw[i : i + 1], int(t[i]), x[i : i + 1]).pred_original_sample
        mine = ours.to_x0(raw[i : i + 1], x[i : i + 1], t[i : i + 1])
        torch.testing.assert_close(mine, said, rtol=1e-4, atol=1e-4)
    if prediction == "v_prediction":
        velocity = theirs.get_velocity(x0, eps, t)
        torch.testing.assert_close(ours.target(x0, eps, t), velocity, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("count", [1, 4, 15, 50, 999, 1000])
@pytest.mark.parametrize("spacing", ["leading", "trailing"])
def test_spacings_are_those_of_diffusers(count, spacing):
    scheduler = diffusers.DDIMScheduler(1000, timestep_spacing=spacing, steps_offset=0)
    scheduler.set_timesteps(count)
    expected = scheduler.timesteps.tolist()
    assert spaced(1000, count, spacing) == expected


def test_stable_diffusion_starts_at_981():
    assert spaced(1000, 50, "leading", offset=1)[:2] == [981, 961]


def test_from_the_configuration_of_diffusers():
    scheduler = diffusers.EulerDiscreteScheduler(
        1000, 0.00085, 0.012, "scaled_linear", prediction_type="v_prediction"
    )
    schedule = Schedule.from_config(dict(scheduler.config))
    assert (schedule.prediction, schedule.steps) == ("v_prediction", 1000)
    level = schedule.level(999)
    assert level.sigma / level.alpha == pytest.approx(scheduler.sigmas[0].item(), rel=1e-4)
    assert Schedule.from_config({}).level(0).sigma ** 2 == pytest.approx(1e-4)
    with pytest.raises(ValueError, match="trained_betas"):
        Schedule.from_config({"trained_betas": [0.1]})


def test_its_numbers_are_the_same_where_a_model_is_built_on_the_meta_device() -> None:
    with torch.device("meta"):
        built = Schedule()
    assert built.level(500).alpha == Schedule().level(500).alpha
