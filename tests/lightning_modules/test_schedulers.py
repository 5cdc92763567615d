"""Learning-rate schedules: their values at known steps, and that they go on where they stopped."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch.optim import lr_scheduler

from lightning_modules import SequentialLR, WarmUp, WarmUpCosine


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


def resume(scheduler, before, folder):
    """Let a schedule go on where another one stopped, from a file that runs no code."""
    torch.save([before.optimizer.state_dict(), before.state_dict()], folder / "state.pt")
    of_optimizer, of_schedule = torch.load(folder / "state.pt", weights_only=True)
    of_schedule.pop("released", None)  # as of a checkpoint from before it was an option
    scheduler.optimizer.load_state_dict(of_optimizer)
    scheduler.load_state_dict(of_schedule)


def test_a_warm_up_rises_and_stays():
    assert rates(WarmUp(optimizer(1.0), 4), 6) == pytest.approx([0.25, 0.5, 0.75, 1, 1, 1])
    assert rates(WarmUp(optimizer(1.0), 0), 2) == [1, 1]


def test_behind_a_warm_up_the_rate_falls_as_torchs_cosine():
    """Of 5e-5 down to 2e-5, the default end."""
    theirs = lr_scheduler.CosineAnnealingLR(optimizer(), T_max=10, eta_min=2e-5)

    found = rates(WarmUpCosine(optimizer(), steps=12, warm_up=2), 14)

    assert found[:2] == pytest.approx([2.5e-5, 5e-5])
    assert found[2:13] == pytest.approx(rates(theirs, 11))
    assert found[13] == pytest.approx(2e-5)


def released_rates(base, warm_up, iterations, final):
    """Rates by iteration, as a trainer has them that sets the rate behind each step."""
    theirs = optimizer(base)
    cosine = lr_scheduler.CosineAnnealingLR(theirs, iterations - warm_up, eta_min=final)
    found = []
    for iteration in range(1, iterations + 1):
        found.append(theirs.param_groups[0]["lr"])
        theirs.step()
        if iteration <= warm_up:
            theirs.param_groups[0]["lr"] = iteration / warm_up * base
        else:
            cosine.step()
    return found


def test_a_released_warm_up_is_one_step_late():
    warm_up = rates(WarmUp(optimizer(1.0), 4, released=True), 7)
    cosine = rates(WarmUpCosine(optimizer(), 20, 5, 2e-5, released=True), 20)
    assert warm_up == pytest.approx([1, 0.25, 0.5, 0.75, 1, 1, 1])
    assert cosine == pytest.approx(released_rates(5e-5, 5, 20, 2e-5))
    assert rates(WarmUp(optimizer(1.0), 0, released=True), 2) == [1, 1]


@pytest.mark.parametrize("stop", [1, 3, 9])
def test_a_resumed_schedule_goes_on_where_it_stopped(stop, tmp_path):
    first = WarmUpCosine(optimizer(), 12, 4, released=True)
    second = WarmUpCosine(optimizer(), 12, 4, released=True)

    before = rates(first, stop)
    resume(second, first, tmp_path)

    assert before + rates(second, 12 - stop) == pytest.approx(released_rates(5e-5, 4, 12, 2e-5))


@pytest.mark.parametrize("kind", [lambda made, steps, warm_up: WarmUp(made, warm_up), WarmUpCosine])
def test_a_resumed_schedule_follows_new_settings(kind, tmp_path):
    """Such as a later end, where a run that is over is to be trained for longer."""
    first = kind(optimizer(5e-5), 12, 4)
    second = kind(optimizer(4e-5), 40, 20)
    last = rates(first, 13)[-1]

    resume(second, first, tmp_path)

    assert rates(second, 2) == pytest.approx([last, 4e-5 * 15 / 20])  # still rising at step 15


def test_a_sequence_of_schedules_is_torchs(tmp_path):
    linear = partial(lr_scheduler.LinearLR, total_iters=3)
    exponential = partial(lr_scheduler.ExponentialLR, gamma=0.9)
    one = optimizer(1.0)
    theirs = lr_scheduler.SequentialLR(one, [linear(one), exponential(one)], [3])
    first = SequentialLR(optimizer(1.0), [linear, exponential], [3])
    second = SequentialLR(optimizer(1.0), [linear, exponential], [3])

    before = rates(first, 4)
    second.optimizer.load_state_dict(first.optimizer.state_dict())
    second.load_state_dict(first.state_dict())

    assert before + rates(second, 2) == pytest.approx(rates(theirs, 6))
