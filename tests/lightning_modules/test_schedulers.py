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
    rates_of_steps = []
    for _ in range(count):
        rates_of_steps.append(scheduler.optimizer.param_groups[0]["lr"])
        scheduler.optimizer.step()
        scheduler.step()
    return rates_of_steps


def resume(scheduler, stopped, folder):
    """Let a schedule go on where another one stopped, from a file that runs no code.

    Without `released`, as in files from before that was an option.
    """
    torch.save([stopped.optimizer.state_dict(), stopped.state_dict()], folder / "state.pt")
    of_optimizer, of_schedule = torch.load(folder / "state.pt", weights_only=True)
    of_schedule.pop("released", None)
    scheduler.optimizer.load_state_dict(of_optimizer)
    scheduler.load_state_dict(of_schedule)


@pytest.mark.parametrize(
    ("warm_up", "released", "expected"),
    [
        (4, False, [0.25, 0.5, 0.75, 1, 1, 1]),
        (4, True, [1, 0.25, 0.5, 0.75, 1, 1]),
        (0, True, [1, 1]),
    ],
    ids=["ours", "released", "released, without a warm-up"],
)
def test_a_warm_up_rises_to_the_optimisers_rate_and_stays(warm_up, released, expected):
    """`released`: one step late, as in ResShift's code, which sets the rate after a step."""
    schedule = WarmUp(optimizer(rate=1.0), warm_up, released)
    assert rates(schedule, len(expected)) == pytest.approx(expected)


def test_after_a_warm_up_the_rate_falls_as_torchs_cosine_and_stays():
    theirs = lr_scheduler.CosineAnnealingLR(optimizer(rate=5e-5), T_max=10, eta_min=2e-5)
    schedule = WarmUpCosine(optimizer(rate=5e-5), steps=12, warm_up=2, final=2e-5)

    ours = rates(schedule, 14)

    assert ours[:2] == pytest.approx([2.5e-5, 5e-5])
    assert ours[2:13] == pytest.approx(rates(theirs, 11))
    assert ours[13] == pytest.approx(2e-5)


def released_rates(rate, warm_up, steps, final):
    """The rate of each step of a trainer that sets it after the step, as the released code does."""
    theirs = optimizer(rate)
    cosine = lr_scheduler.CosineAnnealingLR(theirs, steps - warm_up, eta_min=final)
    rates_of_steps = []
    for step in range(1, steps + 1):
        rates_of_steps.append(theirs.param_groups[0]["lr"])
        theirs.step()
        if step <= warm_up:
            theirs.param_groups[0]["lr"] = step / warm_up * rate
        else:
            cosine.step()
    return rates_of_steps


SETTINGS = {"steps": 12, "warm_up": 4, "final": 2e-5}


@pytest.mark.parametrize("stop", [1, 3, 9])
def test_a_resumed_schedule_goes_on_where_it_stopped(stop, tmp_path):
    first = WarmUpCosine(optimizer(rate=5e-5), **SETTINGS, released=True)
    second = WarmUpCosine(optimizer(rate=5e-5), **SETTINGS, released=True)

    before = rates(first, stop)
    resume(second, first, tmp_path)

    expected = released_rates(rate=5e-5, **SETTINGS)
    assert before + rates(second, SETTINGS["steps"] - stop) == pytest.approx(expected)


@pytest.mark.parametrize(
    "kind",
    [lambda one, steps, warm_up: WarmUp(one, warm_up), WarmUpCosine],
    ids=["WarmUp", "WarmUpCosine"],
)
def test_a_resumed_schedule_follows_new_settings(kind, tmp_path):
    """Such as a later end, where a run that is over is to be trained for longer."""
    first = kind(optimizer(rate=5e-5), steps=12, warm_up=4)
    second = kind(optimizer(rate=4e-5), steps=40, warm_up=20)
    last = rates(first, 13)[-1]

    resume(second, first, tmp_path)

    # The new settings from the second step on, the 15th of all: of a warm-up of 20.
    assert rates(second, 2) == pytest.approx([last, 4e-5 * 15 / 20])


def test_a_sequence_of_schedules_is_torchs_also_when_resumed():
    linear = partial(lr_scheduler.LinearLR, total_iters=3)
    exponential = partial(lr_scheduler.ExponentialLR, gamma=0.9)
    one = optimizer(1.0)
    theirs = lr_scheduler.SequentialLR(one, [linear(one), exponential(one)], milestones=[3])
    first = SequentialLR(optimizer(1.0), [linear, exponential], milestones=[3])
    second = SequentialLR(optimizer(1.0), [linear, exponential], milestones=[3])

    before = rates(first, 4)
    second.optimizer.load_state_dict(first.optimizer.state_dict())
    second.load_state_dict(first.state_dict())

    assert before + rates(second, 2) == pytest.approx(rates(theirs, 6))
