"""A trace shows the degradation as it runs; nothing is repeated."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from degradations.base import Stage
from degradations.bicubic import Bicubic
from degradations.compose import OneOf, Shuffled, Sometimes
from degradations.pipeline import Pipeline
from degradations.stages.adapters import Kornia
from degradations.stages.noise import GaussianNoise
from degradations.tools.preview import name_of, parameters_of, stages_of, trace

HR = torch.rand(1, 3, 24, 20, generator=torch.Generator().manual_seed(0))
SEEDS = range(12)


class Gain(Stage):
    """Multiply by a factor per image."""

    def draw(self, draws, shape):
        return {"factor": draws.uniform(0.5, 1.0)}

    def forward(self, x, params):
        return x * params["factor"].view(-1, 1, 1, 1)


class Twice(Stage):
    """A stage that draws with an inner stage, without running it."""

    def __init__(self):
        super().__init__()
        self.inner = Gain()

    def draw(self, draws, shape):
        return {"factor": draws.uniform(), "inside": self.inner.draw(draws, shape)}

    def forward(self, x, params):
        return x * params["factor"].view(-1, 1, 1, 1)


def pipeline():
    return Pipeline(
        2.0,
        {
            "gain": Gain(),
            "sometimes": Sometimes(GaussianNoise((20.0, 20.0)), 0.5),
            "one": OneOf({"a": Gain(), "b": GaussianNoise((9.0, 9.0))}, (0.25, 0.75)),
            "order": Shuffled({"c": Gain(), "d": Sometimes(Twice(), 0.5), "e": GaussianNoise()}),
        },
    )


def degraded(degradation, seed):
    return degradation(HR, torch.tensor([seed]))


@pytest.mark.parametrize("seed", SEEDS)
def test_the_lr_and_the_last_stage_are_those_of_the_degradation(seed):
    result = trace(pipeline(), HR, seed)
    assert torch.equal(result.lr, degraded(pipeline(), seed))
    last = [step.image for step in result.steps if step.image is not None][-1]
    # After the stages: the LR size, and 8 bits.
    assert torch.equal(result.lr, degraded_from(last))


def degraded_from(image):
    return Pipeline(2.0, [])(image.clamp(0, 1), torch.tensor([0]))


def test_each_step_follows_from_the_one_before():
    for seed in SEEDS:
        result = trace(pipeline(), HR, seed)
        x = HR
        for step in result.steps:
            if isinstance(step.stage, Gain) and step.name != "order / d":
                factor = float(np.float32(step.params["factor"][0]))
                assert torch.equal(step.image, x * torch.tensor(factor))
            x = x if step.image is None else step.image


def test_every_stage_is_there_by_name_and_what_was_left_out_has_no_image():
    for seed in SEEDS:
        result = trace(pipeline(), HR, seed)
        names = [step.name for step in result.steps]
        applied = bool(result.params["sometimes"]["applied"][0])
        chosen = "ab"[int(result.params["one"]["which"][0])]
        order = [f"order / {'cde'[number]}" for number in result.params["order"]["order"][0]]
        assert names == ["gain", "sometimes", f"one / {chosen}", *order]
        assert (result.steps[1].image is not None) == applied
        within = next(step for step in result.steps if step.name == "order / d")
        assert (within.image is not None) == bool(result.params["order"]["d"]["applied"][0])


def test_a_stage_that_finds_nothing_to_do_was_not_left_out():
    class Idle(Gain):
        def forward(self, x, params):
            return x

    (step,) = trace(Pipeline(2.0, [Idle()]), HR, 0).steps
    assert torch.equal(step.image, HR)


def test_choices_in_words():
    steps = {step.name: step for seed in SEEDS for step in trace(pipeline(), HR, seed).steps}
    assert steps["one / a"].choices == ["chosen of 2 (probability 25%)"]
    assert steps["one / b"].choices == ["chosen of 2 (probability 75%)"]
    result = trace(pipeline(), HR, 0)
    places = [step.choices[0] for step in result.steps[3:]]
    assert places == [f"number {n} of 3 in the drawn order" for n in (1, 2, 3)]
    applied = [
        step.choices
        for seed in SEEDS
        for step in trace(pipeline(), HR, seed).steps
        if step.name == "sometimes" and step.image is not None
    ]
    assert applied
    assert all(choices == ["applied (probability 50%)"] for choices in applied)


def test_parameters_of_a_step_are_its_own():
    result = trace(pipeline(), HR, 3)
    drawn = result.params["order"]["e"]["levels"]
    step = next(step for step in result.steps if step.name == "order / e")
    assert step.params["levels"] == drawn


def test_one_object_twice():
    noise = GaussianNoise()
    result = trace(Pipeline(2.0, [noise, noise]), HR, 0)
    assert [step.name for step in result.steps] == ["GaussianNoise", "GaussianNoise#2"]
    assert result.steps[0].params["levels"] != result.steps[1].params["levels"]


def test_a_degradation_without_stages():
    result = trace(Bicubic(2.0), HR, 0)
    assert result.steps == []
    assert torch.equal(result.lr, degraded(Bicubic(2.0), 0))


def test_nothing_is_left_behind():
    degradation = pipeline()
    degradation.executor = "canvas"
    before = degraded(degradation, 5)
    result = trace(degradation, HR, 5)
    assert degradation.executor == "canvas"
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in degradation.modules())
    assert torch.equal(degraded(degradation, 5), before)
    assert torch.equal(result.lr, degraded(pipeline(), 5))  # image by image


def test_stages_of_a_degradation_once_each():
    degradation = pipeline()
    params = degradation.params_of(torch.arange(2), HR.shape)
    found = {" / ".join(names): stage for names, stage, _ in stages_of(degradation, params)}
    assert found.keys() == {
        *("", "gain", "sometimes", "one", "one / a", "one / b"),
        *("order", "order / c", "order / d", "order / e"),
    }
    own = [own for names, _, own in stages_of(degradation, params) if names == ["one", "a"]]
    np.testing.assert_array_equal(own[0]["factor"], params["one"]["a"]["factor"])


def test_parameters_by_their_names():
    params = {
        "depth": np.array([0.123456]),
        "on": np.array([False]),
        "count": torch.tensor([3]),
        "shared": 2,
        "field_seeds": np.array([1]),
        "matrix": np.zeros((1, 2)),
        "inner": {"level": np.array([1.0])},
        "arguments": {"bits": np.array([5])},
    }
    assert parameters_of(params) == ["depth 0.123", "on False", "count 3", "shared 2", "bits 5"]


def test_names_of_stages():
    assert name_of(Gain()) == "Gain"
    assert name_of(Kornia("kornia.enhance.invert")) == "kornia.enhance.invert"
