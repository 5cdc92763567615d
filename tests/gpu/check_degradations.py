"""Stages and recipes on the pretended GPU: the CPU's values, no undeclared wait."""

from __future__ import annotations

import functools

import albumentations
import pytest
import torch

from degradations.base import Canvas, Degradation, Stage
from degradations.compose import Mixture
from degradations.draws import to_device
from degradations.pipeline import Pipeline
from degradations.recipes.resshift import ImageNetTest
from degradations.recipes.second_order import RealESRGANLight, SecondOrder
from degradations.stages.adapters import Albumentations
from degradations.stages.noise import GaussianNoise, hashed_fields
from tests.contracts import discovery
from tests.contracts.degradation_contract import (
    CPU,
    SEEDS,
    StageContract,
    build,
    check_images,
    each,
    make_images,
)
from tests.contracts.test_degradations import DEGRADATIONS, STAGES
from tests.gpu.device import GPU, counted, pretended_gpu

HR = make_images(3, (32, 32))
# Most waits of a batch, by recipe. May only fall.
LIMITS = {"Mixture": 1}
# RealESRGAN's and ResShift's with other numbers: left to `make test-nightly`.
ALIKE = (ImageNetTest, RealESRGANLight, SecondOrder)


@pytest.mark.parametrize(
    "cls", discovery.concrete_subclasses(Stage, "degradations"), ids=lambda cls: cls.__name__
)
def test_a_stage_gives_the_images_of_a_cpu_and_waits_only_if_it_declares_that(cls):
    """A GPU is idle after a stage for which the host waits, in each batch of a training."""
    stage = STAGES.get(cls, functools.partial(build, cls))()
    drawn = StageContract().draw(stage, SEEDS[:3], (32, 32))
    with pretended_gpu():
        there = HR.to(GPU)
        for _ in range(2):  # the first time, tables are copied
            with counted() as waits:
                params = stage.prepare(to_device(drawn, 3, GPU))
                canvas = stage.on_canvas(Canvas.of(there), params)
        result = Canvas(canvas.pixels.cpu(), canvas.sizes.cpu(), canvas.hr_size)

    with hashed_fields():
        expected = each(stage, HR, stage.prepare(to_device(drawn, 3, CPU)))
    check_images(result, expected)
    assert stage.waits or not waits, f"it waits, and does not declare it:\n{waits}"


@pytest.mark.parametrize(
    "cls",
    [
        pytest.param(cls, id=cls.__name__, marks=pytest.mark.slow if cls in ALIKE else ())
        for cls in discovery.concrete_subclasses(Degradation, "degradations")
    ],
)
def test_a_recipe_gives_the_lr_of_a_cpu_and_waits_at_most_the_limit(cls):
    """A GPU is idle whenever the host waits for it, in each batch of a training."""
    degradation = (DEGRADATIONS.get(cls) or functools.partial(build, cls))(2.0)
    with pretended_gpu():
        there = HR.to(GPU)
        for _ in range(2):  # the first time, tables are copied
            with counted() as waits:
                lr = degradation(there, SEEDS[:3])
        assert lr.device == GPU
        result = lr.cpu()

    with hashed_fields():
        expected = degradation(HR, SEEDS[:3])
    # Not image by image: some roundings to 8 bits differ, and JPEG amplifies them.
    assert (result - expected).abs().mean() < 0.005  # 1.3 levels of 255
    assert waits.total() <= LIMITS.get(cls.__name__, 0), f"a batch waits:\n{waits}"


# ----------------------------------------------------------------------------- compiled by default


class Compiler:
    """Stands for ``torch.compile``; counts the batches that go through it."""

    def __init__(self, fails=False):
        self.fails = fails
        self.batches = 0

    def __call__(self, function, **settings):
        def run(*args):
            self.batches += 1
            if self.fails:
                raise RuntimeError("no compiler found\nin a long text")
            return function(*args)

        return run


@pytest.fixture
def degrade(monkeypatch, caplog):
    """A function that degrades batches on the device, and returns LR and the messages so far."""
    caplog.set_level("INFO", "degradations.pipeline")

    def degrade(recipe, compiler, batches=1):
        lr = []
        with pretended_gpu(), monkeypatch.context() as patch:
            patch.setattr(torch, "compile", compiler)
            for _ in range(batches):
                lr.append(recipe(HR.to(GPU), SEEDS[:3]).cpu())
        return lr, [record.getMessage() for record in caplog.records]

    return degrade


def with_noise(scale, **settings):
    return Pipeline(scale, [GaussianNoise()], **settings)


def test_training_batches_are_compiled_and_the_sanity_check_is_not(degrade):
    recipe = with_noise(2.0)
    compiler = Compiler()

    with torch.no_grad():  # as in the sanity check
        degrade(recipe, compiler)
    assert compiler.batches == 0

    _, messages = degrade(recipe, compiler, batches=2)
    assert compiler.batches == 2
    assert messages == [
        "compiling Pipeline for batches of (3, 3, 32, 32)",
        "compiled Pipeline in 0 s; its compile: false does without",  # once, of two batches
    ]


@pytest.mark.parametrize(
    "recipe",
    [
        with_noise(2.0, compile=False),
        Mixture(2.0, [with_noise]),
        Pipeline(2.0, [Albumentations(albumentations.InvertImg(p=1.0))]),
    ],
    ids=["not wanted", "mixture", "on the host"],
)
def test_recipes_that_cannot_be_compiled_or_do_not_want_it_are_not_compiled(degrade, recipe):
    compiler = Compiler()

    degrade(recipe, compiler)

    assert compiler.batches == 0


def test_if_the_compiler_fails_all_batches_are_degraded_without_it(degrade):
    compiler = Compiler(fails=True)

    lr, messages = degrade(with_noise(2.0), compiler, batches=2)

    with hashed_fields():
        expected = with_noise(2.0, executor="canvas")(HR, SEEDS[:3])
    assert compiler.batches == 1  # it is not tried again
    assert messages[1:] == [
        "Pipeline is not compiled, so it takes more launches: no compiler found"
    ]
    assert torch.equal(lr[0], expected)
    assert torch.equal(lr[1], expected)
