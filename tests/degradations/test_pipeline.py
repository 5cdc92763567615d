"""Pipeline: the order, the streams' names, what follows the stages."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from degradations.base import Stage
from degradations.bicubic import Bicubic
from degradations.compose import Sometimes
from degradations.draws import Draws
from degradations.noise import GaussianNoise
from degradations.pipeline import Pipeline

HR = torch.rand(3, 3, 24, 20, generator=torch.Generator().manual_seed(0))
SEEDS = torch.arange(3) + 11


class Gain(Stage):
    """Multiply by a factor, one an image."""

    def draw(self, draws, shape):
        return {"factor": draws.uniform(0.5, 1.0)}

    def forward(self, x, params):
        return x * params["factor"].view(-1, 1, 1, 1)


class Offset(Gain):
    """Add it."""

    def forward(self, x, params):
        return x + params["factor"].view(-1, 1, 1, 1)


class Widen(Gain):
    """A stage that changes the size."""

    resizes = True

    def forward(self, x, params):
        return torch.cat((x, x), dim=-1)


def draws_of(*stages):
    return Pipeline(2.0, list(stages)).params_of(SEEDS, HR.shape)


def assert_same(a, b):
    assert a.keys() == b.keys()
    for name in a:
        np.testing.assert_array_equal(a[name], b[name])


def test_stages_run_in_order():
    pipeline = Pipeline(1.0, [Gain(), Offset()], quantize=False)
    params = pipeline.params_of(SEEDS, HR.shape)
    gain, offset = (
        torch.tensor(params[name]["factor"], dtype=torch.float32).view(-1, 1, 1, 1)
        for name in ("Gain", "Offset")
    )
    expected = (HR * gain + offset).clamp(0, 1)
    torch.testing.assert_close(pipeline(HR, SEEDS), expected, rtol=0, atol=1e-6)


def test_equal_stages_draw_differently():
    params = draws_of(GaussianNoise(), GaussianNoise())
    assert params.keys() == {"GaussianNoise", "GaussianNoise#2"}
    for name in ("levels", "field_seeds"):
        assert (params["GaussianNoise"][name] != params["GaussianNoise#2"][name]).all()


def test_one_object_twice_draws_differently():
    noise = GaussianNoise()
    params = draws_of(noise, noise)
    assert (params["GaussianNoise"]["levels"] != params["GaussianNoise#2"]["levels"]).all()


def test_adding_removing_and_moving_a_stage_leaves_the_others():
    noise = GaussianNoise()
    alone = draws_of(noise)["GaussianNoise"]
    assert_same(draws_of(Gain(), noise)["GaussianNoise"], alone)
    assert_same(draws_of(noise, Gain(), Offset())["GaussianNoise"], alone)
    assert_same(draws_of(Offset(), noise, Gain())["GaussianNoise"], alone)
    # Also one of its own class, after it.
    twice = draws_of(noise, Gain(), GaussianNoise())
    assert_same(twice["GaussianNoise"], alone)
    assert_same(twice["Gain"], draws_of(Gain())["Gain"])


def test_another_range_keeps_the_quantiles():
    wide, narrow = draws_of(GaussianNoise((0.0, 40.0))), draws_of(GaussianNoise((0.0, 10.0)))
    np.testing.assert_allclose(
        wide["GaussianNoise"]["levels"], 4 * narrow["GaussianNoise"]["levels"]
    )
    np.testing.assert_array_equal(
        wide["GaussianNoise"]["field_seeds"], narrow["GaussianNoise"]["field_seeds"]
    )


def test_a_stage_draws_from_its_named_stream():
    """Frozen: the name is part of what makes an LR."""
    expected = Draws(SEEDS).fold("degradation").fold("GaussianNoise").uniform(1.0, 30.0)
    np.testing.assert_array_equal(draws_of(GaussianNoise())["GaussianNoise"]["levels"], expected)


def test_no_stages_are_bicubic():
    assert torch.equal(Pipeline(2.0, [])(HR, SEEDS), Bicubic(2.0)(HR, SEEDS))


def test_what_the_stages_leave_is_clamped_before_it_shrinks():
    """As a sensor or a file would: over-exposed pixels do not lend light to their neighbours."""
    hr = torch.zeros(3, 3, 8, 8)
    hr[..., ::2] = 1
    assert Pipeline(8.0, [Offset()])(hr, SEEDS).max() < 1


def test_rounds_to_8_bits():
    levels = Pipeline(2.0, [Gain()])(HR, SEEDS) * 255
    torch.testing.assert_close(levels, levels.round(), rtol=0, atol=1e-4)
    unrounded = Pipeline(2.0, [Gain()], quantize=False)(HR, SEEDS) * 255
    assert (unrounded - levels).abs().max() <= 0.5 + 1e-3
    assert (unrounded - unrounded.round()).abs().max() > 0.1


def test_a_stage_may_change_the_size():
    assert Pipeline(2.0, [Widen()])(HR, SEEDS).shape == (3, 3, 12, 10)


@pytest.mark.parametrize("stage", [GaussianNoise, Bicubic(2.0), "degradations.noise.GaussianNoise"])
def test_refuses_what_is_no_stage(stage):
    with pytest.raises(TypeError, match=r"stages\[1\] is .*expected a Stage"):
        Pipeline(2.0, [Gain(), stage])


def test_what_works_on_the_cpu_is_not_compiled():
    class Codec(Gain):
        waits = True

    Pipeline(2.0, [Codec()], executor="canvas")
    stages = {"Gain": Codec(), "Sometimes": Sometimes(Codec()), "noise": GaussianNoise()}
    with pytest.raises(ValueError, match="compile is true, but Gain, Sometimes work on the CPU"):
        Pipeline(2.0, stages, compile=True)


@pytest.mark.parametrize("executor", ["auto", "images", "canvas"])
def test_all_executors_are_run(executor):
    assert Pipeline(2.0, [Gain()], executor=executor)(HR, SEEDS).shape == (3, 3, 12, 10)


def test_refuses_an_unknown_executor():
    with pytest.raises(ValueError, match="executor is 'gpu'; expected auto, images or canvas"):
        Pipeline(2.0, [], executor="gpu")


def test_a_stage_that_changes_sizes_without_saying_so():
    class Silent(Widen):
        resizes = False

    message = r"Silent changed the size .* from \(24, 20\) to \(24, 40\): set `resizes = True`"
    with pytest.raises(TypeError, match=message):
        Pipeline(2.0, [Silent()])(HR, SEEDS)


def test_many_sizes_do_not_end_a_compiled_run(monkeypatch):
    """torch gives up for good after 8; whole pictures in validation have as many sizes."""
    compiled = []

    def compile(function, **settings):
        def run(hr, params):
            compiled.append(hr.shape[-1])
            return function(hr, params)

        return run

    monkeypatch.setattr(torch, "compile", compile)
    pipeline = Pipeline(2.0, [Gain()], executor="canvas", compile=True)
    plain = Pipeline(2.0, [Gain()], executor="canvas")
    for width in (20, 22, 20, 24, 26, 28, 30, 20):
        hr = torch.rand(3, 3, 24, width)
        assert torch.equal(pipeline(hr, SEEDS), plain(hr, SEEDS))
    assert compiled == [20, 22, 20, 24, 26, 20]
