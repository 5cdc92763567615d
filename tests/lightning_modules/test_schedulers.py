"""Learning-rate schedules: their values at known steps, and that they go on where they stopped."""

from __future__ import annotations

from functools import partial

import pytest
import torch

from lightning_modules.optimisation import SequentialLR, WarmUp, WarmUpCosine


def optimizer(rate=5e-5):
    return torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=rate)


def rates(scheduler, count):
    """The learning rate of each of so many steps."""
    found = []
    for _ in range(count):
        found.append(scheduler.optimizer.param_groups[0]["lr"])
        scheduler.optimizer.step()
        scheduler.step()
    return found


def test_it_rises_and_stays():
    assert rates(WarmUp(optimizer(1.0), 4), 6) == pytest.approx([0.25, 0.5, 0.75, 1, 1, 1])
    assert rates(WarmUp(optimizer(1.0), 0), 2) == [1, 1]


def test_it_rises_and_falls_as_torch_s_cosine():
    found = rates(WarmUpCosine(optimizer(), steps=12, warm_up=2), 14)
    assert found[:2] == pytest.approx([2.5e-5, 5e-5])
    theirs = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer(), T_max=10, eta_min=2e-5)
    assert found[2:13] == pytest.approx(rates(theirs, 11))
    assert found[13] == pytest.approx(2e-5)


def released_rates(base, warm_up, iterations, final=None):
    """Rates by iteration, as a trainer has them that sets the rate behind each step."""
    optimizer_ = optimizer(base)
    (group,) = optimizer_.param_groups
    cosine = None
    if final is not None:
        T = iterations - warm_up
        cosine = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer_, T, eta_min=final)
    found = []
    for iteration in range(1, iterations + 1):
        found.append(group["lr"])
        optimizer_.step()
        if iteration <= warm_up:
            group["lr"] = iteration / warm_up * base
        elif cosine is not None:
            cosine.step()
    return found


def test_as_released():
    found = rates(WarmUp(optimizer(1.0), 4, released=True), 7)
    assert found == pytest.approx([1, 0.25, 0.5, 0.75, 1, 1, 1])
    assert found == pytest.approx(released_rates(1.0, 4, 7))
    found = rates(WarmUpCosine(optimizer(), 20, 5, 2e-5, released=True), 20)
    assert found == pytest.approx(released_rates(5e-5, 5, 20, 2e-5))
    assert rates(WarmUp(optimizer(1.0), 0, released=True), 2) == [1, 1]


@pytest.mark.parametrize("stop", [1, 3, 9])
def test_as_released_it_goes_on_where_it_stopped(stop):
    first, second = (WarmUpCosine(optimizer(), 12, 4, released=True) for _ in range(2))
    before = rates(first, stop)
    second.optimizer.load_state_dict(first.optimizer.state_dict())
    state = first.state_dict()
    del state["released"]  # as of a checkpoint from before it was an option
    second.load_state_dict(state)
    assert before + rates(second, 12 - stop) == pytest.approx(released_rates(5e-5, 4, 12, 2e-5))


@pytest.mark.parametrize("kind", ["warm-up", "cosine"])
def test_it_goes_on_by_new_settings(kind):
    """Such as a later end, where a run that is over is to be trained for longer."""

    def made(rate, steps, warm_up):
        if kind == "warm-up":
            return WarmUp(optimizer(rate), warm_up)
        return WarmUpCosine(optimizer(rate), steps, warm_up)

    first, second = made(5e-5, 12, 4), made(4e-5, 40, 20)
    expected = rates(made(4e-5, 40, 20), 14)
    old = rates(first, 13)[-1]
    second.optimizer.load_state_dict(first.optimizer.state_dict())
    second.load_state_dict(first.state_dict())
    found = rates(second, 2)
    assert found[1] == pytest.approx(expected[-1] * (15 / 14))  # both still rise
    assert found[0] == pytest.approx(old)


def test_the_state_is_of_plain_types(tmp_path):
    """Checkpoints are read without running code."""
    torch.save(WarmUpCosine(optimizer(), steps=12, warm_up=4).state_dict(), tmp_path / "state.pt")
    assert torch.load(tmp_path / "state.pt", weights_only=True)


def test_a_sequence_of_yaml_is_torch_s():
    lr = torch.optim.lr_scheduler
    linear, exponential = partial(lr.LinearLR, total_iters=3), partial(lr.ExponentialLR, gamma=0.9)
    made = optimizer(1.0)
    expected = rates(lr.SequentialLR(made, [linear(made), exponential(made)], [3]), 6)
    first, second = (SequentialLR(optimizer(1.0), [linear, exponential], [3]) for _ in range(2))

    before = rates(first, 4)
    second.optimizer.load_state_dict(first.optimizer.state_dict())
    second.load_state_dict(first.state_dict())

    assert before + rates(second, 2) == pytest.approx(expected)
