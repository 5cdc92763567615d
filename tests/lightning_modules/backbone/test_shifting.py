"""Residual shifting, against the printed values and the closed forms of the papers."""

from __future__ import annotations

import math

import pytest
import torch

from lightning_modules.backbone.shifting import ResidualShift
from lightning_modules.sampling.solvers import residual_shift

# sqrt(eta) of the released code, to six digits.
FIFTEEN = """0.020000 0.117165 0.176305 0.233629 0.291574 0.351009 0.412356 0.475858 0.541672
0.609910 0.680658 0.753985 0.829951 0.908606 0.990000"""
FOUR = "0.100000 0.520096 0.761382 0.990000"
TARGETS = ["sample", "epsilon", "scaled_epsilon", "residual"]


@pytest.mark.parametrize(("steps", "min_noise", "printed"), [(15, 0.04, FIFTEEN), (4, 0.2, FOUR)])
def test_printed_values(steps, min_noise, printed):
    process = ResidualShift(steps, min_noise=min_noise)
    roots = [f"{math.sqrt(process.eta(t)):.6f}" for t in range(steps)]
    assert roots == printed.split()
    # the formula, term by term
    first, last = min_noise / 2, 0.99
    base = math.exp(math.log(last / first) / (steps - 1))
    for t in range(steps):
        exponent = (t / (steps - 1)) ** 0.3 * (steps - 1)
        assert process.eta(t) == pytest.approx((first * base**exponent) ** 2, rel=1e-12)


def test_the_papers_ends():
    process = ResidualShift(form="paper")
    assert process.eta(0) == pytest.approx((0.04 / 2) ** 2)
    assert process.eta(14) == pytest.approx(0.999)
    assert ResidualShift(kappa=1.0, form="paper").eta(0) == pytest.approx(0.001)  # the cap
    assert ResidualShift(kappa=1.0).eta(0) == pytest.approx(0.04**2)


def test_variances_of_four_steps():
    process = ResidualShift(4, min_noise=0.2)
    x, noise = torch.zeros(1, dtype=torch.float64), torch.ones(1, dtype=torch.float64)
    found = [
        residual_shift(x, x, process.eta(t), process.eta(t - 1), 2.0, noise).item() ** 2
        for t in (1, 2, 3)
    ]
    assert found == pytest.approx([0.038521, 0.577119, 0.947297], abs=1e-6)


def test_a_chain_of_posteriors_has_the_marginals():
    """Mean and variance, in closed form, of sampling when x0 is known."""
    process = ResidualShift()
    x0, anchor = torch.tensor([0.3], dtype=torch.float64), torch.tensor([-0.9], dtype=torch.float64)
    last = process.eta(14)
    mean, variance = x0 + last * (anchor - x0), 4 * last
    nothing, one = torch.zeros_like(x0), torch.ones_like(x0)
    for t in range(14, -1, -1):
        now, then = process.eta(t), process.eta(t - 1)
        added = residual_shift(nothing, nothing, now, then, 2.0, one).item()
        kept = residual_shift(one, nothing, now, then, 2.0, nothing).item()
        mean = residual_shift(mean, x0, now, then, 2.0, nothing)
        variance = kept**2 * variance + added**2
        torch.testing.assert_close(mean, x0 + then * (anchor - x0), rtol=0, atol=1e-12)
        assert variance == pytest.approx(4 * then, abs=1e-12)
    assert mean.item() == x0.item()


def test_input_scales_and_prior():
    x = torch.ones(2, 1, 1, 1, dtype=torch.float64)
    t = torch.tensor([0, 14])
    latent = ResidualShift().scale_input(x, t).flatten().tolist()
    assert latent == pytest.approx([(4 * 0.0004 + 1) ** -0.5, (4 * 0.9801 + 1) ** -0.5])
    pixel = ResidualShift(input_scale="pixel").scale_input(x, t).flatten().tolist()
    assert pixel == pytest.approx([1 / (6 * 0.02 + 1), 1 / (6 * 0.99 + 1)])
    prior = ResidualShift().prior(x, x)
    torch.testing.assert_close(prior, torch.full_like(x, 1 + 2 * 0.99))


def test_fewer_steps_keep_their_numbers():
    process = ResidualShift().respaced([14, 9, 4, 0])
    assert (process.steps, process.timesteps) == (4, [0, 4, 9, 14])
    assert [process.eta(t) for t in range(4)] == [ResidualShift().eta(t) for t in (0, 4, 9, 14)]
    again = process.respaced([3, 1])
    assert again.timesteps == [4, 14]
    with pytest.raises(ValueError, match="a falling list"):
        process.respaced([0, 3])
    with pytest.raises(ValueError, match="begin at 2"):
        process.respaced([2, 0])


def test_its_numbers_are_the_same_where_a_model_is_built_on_the_meta_device() -> None:
    with torch.device("meta"):
        built = ResidualShift()
    assert built.eta(7) == ResidualShift().eta(7)


@pytest.mark.parametrize("prediction", TARGETS)
def test_the_loss_is_the_squared_error_and_that_of_scaled_noise_is_scaled_back(prediction):
    """As released: divided by kappa^2 eta, so that errors of the noise count equally."""
    process = ResidualShift(4, min_noise=0.2, prediction=prediction)
    x0, anchor, eps, raw = torch.randn(4, 4, 3, 2, 2, generator=torch.Generator().manual_seed(0))
    t = torch.arange(4)
    errors = (raw - process.target(x0, anchor, eps, t)).square().flatten(1).mean(1)
    if prediction == "scaled_epsilon":
        errors = errors / torch.tensor([process.level(int(n)).sigma ** 2 for n in t])
    torch.testing.assert_close(process.loss(raw, x0, anchor, eps, t), errors.mean())
