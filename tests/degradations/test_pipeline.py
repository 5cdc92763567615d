"""Pipeline: order, names of streams, and the steps after the stages."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from degradations.base import Stage
from degradations.bicubic import Bicubic
from degradations.compose import OneOf, Shuffled, Sometimes
from degradations.pipeline import Pipeline
from degradations.stages.noise import GaussianNoise, hashed_fields, seeded_randn_like
from degradations.stages.resize import Resize
from tests.contracts.discovery import concrete_subclasses

HR = torch.rand(3, 3, 24, 20, generator=torch.Generator().manual_seed(0))
SEEDS = torch.arange(3) + 11


class Gain(Stage):
    """Multiply by a factor per image."""

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


def test_adding_removing_and_moving_a_stage_leaves_the_others():
    noise = GaussianNoise()
    alone = draws_of(noise)["GaussianNoise"]
    assert_same(draws_of(Gain(), noise)["GaussianNoise"], alone)
    assert_same(draws_of(noise, Gain(), Offset())["GaussianNoise"], alone)
    assert_same(draws_of(Offset(), noise, Gain())["GaussianNoise"], alone)
    # Also a second one of the same class.
    twice = draws_of(noise, Gain(), GaussianNoise())
    assert_same(twice["GaussianNoise"], alone)
    assert_same(twice["Gain"], draws_of(Gain())["Gain"])


def test_no_stages_are_bicubic():
    assert torch.equal(Pipeline(2.0, [])(HR, SEEDS), Bicubic(2.0)(HR, SEEDS))


def test_what_the_stages_leave_is_clamped_before_it_shrinks():
    """Like a sensor or a file: overexposed pixels do not add light to their neighbours."""
    hr = torch.zeros(3, 3, 8, 8)
    hr[..., ::2] = 1
    assert Pipeline(8.0, [Offset()])(hr, SEEDS).max() < 1


def test_many_sizes_do_not_end_a_compiled_run(monkeypatch):
    """torch stops compiling after 8 shapes, and whole images have as many sizes."""
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
    with torch.no_grad():  # validation has places of its own, and takes none of training's
        for width in (20, 28, 30, 32, 34):
            pipeline(torch.rand(3, 3, 24, width), SEEDS)
    assert compiled[6:] == [20, 28, 30, 32]


# --------------------------------------------------- stages of differing sizes, on a CPU and a GPU


class Vignette(Gain):
    """Darken the corners of each image."""

    def forward(self, x, params):
        h, w = x.shape[-2:]
        row = torch.linspace(-1, 1, h, device=x.device).view(-1, 1)
        column = torch.linspace(-1, 1, w, device=x.device)
        return x * (1 - params["factor"].view(-1, 1, 1, 1) * (row**2 + column**2) / 2)


class RowNoise(Gain):
    """Add a number to each row."""

    def draw(self, draws, shape):
        return {"field_seeds": draws.seeds()}

    def forward(self, x, params):
        return x + 0.1 * seeded_randn_like(x[..., :1], params["field_seeds"])


class ReadsItsNumber(Gain):
    """Written for one image at a time."""

    def forward(self, x, params):
        return x * params["factor"].item()


@pytest.mark.parametrize("first", [True, False], ids=["after a resize", "on whole images"])
@pytest.mark.parametrize(
    "stage",
    [
        Vignette(),
        RowNoise(),
        ReadsItsNumber(),
        Sometimes(Vignette(), 0.5),
        OneOf([Vignette(), RowNoise(), Gain()]),
        Shuffled([Vignette(), Resize(), RowNoise()]),
        Sometimes(OneOf([Resize(), Shuffled([RowNoise(), Vignette()])]), 0.8),
    ],
    ids=lambda stage: type(stage).__name__,
)
def test_an_lr_is_the_same_one_by_one_and_on_a_canvas(stage, first):
    hr, seeds = (
        torch.rand(6, 3, 40, 36, generator=torch.Generator().manual_seed(2)),
        torch.arange(6),
    )
    stages = [Resize(), stage, Gain()] if first else [stage]
    made = {}
    for executor in ("images", "canvas"):
        pipeline = Pipeline(2.0, stages, quantize=False, executor=executor)
        with hashed_fields():  # on both, as on a GPU
            made[executor] = pipeline(hr, seeds)
    torch.testing.assert_close(made["canvas"], made["images"], rtol=0, atol=1e-5)


def test_a_pixelwise_stage_gets_the_whole_canvas():
    seen = []

    class Seen(Gain):
        pixelwise = True

        def forward(self, x, params):
            seen.append(len(x))
            return super().forward(x, params)

    Pipeline(2.0, [Resize(), Seen()], executor="canvas")(HR, SEEDS)
    assert seen == [3]
    Pipeline(2.0, [Resize(), Gain(), Seen()], executor="images")(HR, SEEDS)
    assert seen == [3, 1, 1, 1]


def test_shipped_stages_are_not_cut_out():
    for cls in concrete_subclasses(Stage, "degradations"):
        assert cls.on_canvas is not Stage.on_canvas or cls.pixelwise, cls
