"""Stages and recipes on the pretended GPU: the CPU's values, no undeclared wait."""

from __future__ import annotations

import functools
import logging
from typing import Any

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

HR, LOG = make_images(3, (32, 32)), "degradations.pipeline"
# Most waits of a batch, by recipe. May only fall.
LIMITS = {"Mixture": 1}
# RealESRGAN's and ResShift's with other numbers: left to `make test-nightly`.
ALIKE = (ImageNetTest, RealESRGANLight, SecondOrder)


@pytest.mark.parametrize(
    "cls", discovery.concrete_subclasses(Stage, "degradations"), ids=lambda cls: cls.__name__
)
def test_a_stage(cls: Any) -> None:
    stage = STAGES.get(cls, functools.partial(build, cls))()
    x = make_images(3, (32, 32))
    drawn = StageContract().draw(stage, SEEDS[:3], (32, 32))
    with hashed_fields():
        expected = each(stage, x, stage.prepare(to_device(drawn, 3, CPU)))
    with pretended_gpu():
        there = x.to(GPU)
        for _ in range(2):  # the first time, tables are copied
            with counted() as waits:
                params = stage.prepare(to_device(drawn, 3, GPU))
                canvas = stage.on_canvas(Canvas.of(there), params)
        assert stage.waits or not waits, f"it waits, and does not declare it:\n{waits}"
        found = Canvas(*(part.cpu() for part in canvas[:2]), canvas.hr_size)
    check_images(found, expected)


@pytest.mark.parametrize(
    "cls",
    [
        pytest.param(cls, id=cls.__name__, marks=pytest.mark.slow if cls in ALIKE else ())
        for cls in discovery.concrete_subclasses(Degradation, "degradations")
    ],
)
def test_a_recipe(cls: Any) -> None:
    degradation = (DEGRADATIONS.get(cls) or functools.partial(build, cls))(2.0)
    hr = make_images(4, (32, 32))
    with pretended_gpu():
        there = hr.to(GPU)
        for _ in range(2):
            with counted() as waits:
                lr = degradation(there, SEEDS[:4])
        assert lr.device == GPU
        assert waits.total() <= LIMITS.get(cls.__name__, 0), f"a batch waits:\n{waits}"
        found = lr.cpu()
    with hashed_fields():
        expected = degradation(hr, SEEDS[:4])
    # By images, some roundings to 8 bits differ in the last bit, and JPEG amplifies them.
    assert (found - expected).abs().mean() < 0.005


# ----------------------------------------------------------------------------- compiled by default


class Compiler:
    """Stands for ``torch.compile``; counts the batches that go through it."""

    def __init__(self, fails: bool = False) -> None:
        self.fails, self.batches = fails, 0

    def __call__(self, function: Any, **settings: Any) -> Any:
        def run(*args: Any) -> Any:
            self.batches += 1
            if self.fails:
                raise RuntimeError("no compiler found\nin a long text")
            return function(*args)

        return run


def test_training_batches_are_compiled(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    recipe = Pipeline(2.0, [GaussianNoise()])
    with pretended_gpu(), caplog.at_level(logging.INFO, LOG):
        monkeypatch.setattr(torch, "compile", compiler := Compiler())
        with torch.no_grad():  # as in the sanity check
            recipe(HR.to(GPU), SEEDS[:3])
        assert compiler.batches == 0
        for _ in range(2):
            recipe(HR.to(GPU), SEEDS[:3])
        assert compiler.batches == 2
        Pipeline(2.0, [GaussianNoise()], compile=False)(HR.to(GPU), SEEDS[:3])
        Mixture(2.0, [functools.partial(Pipeline, stages=[GaussianNoise()])])(HR.to(GPU), SEEDS[:3])
        assert compiler.batches == 2
    assert [r.getMessage() for r in caplog.records] == [
        "compiling Pipeline for batches of (3, 3, 32, 32)",
        "compiled Pipeline in 0 s; its compile: false does without",
    ]


def test_a_compiler_that_fails_is_done_without(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    recipe = Pipeline(2.0, [GaussianNoise()])
    with pretended_gpu(), caplog.at_level(logging.WARNING, LOG):
        monkeypatch.setattr(torch, "compile", compiler := Compiler(fails=True))
        found = [recipe(HR.to(GPU), SEEDS[:3]).cpu() for _ in range(2)]
    assert compiler.batches == 1
    said = ["Pipeline is not compiled, so it takes more launches: no compiler found"]
    assert [r.getMessage() for r in caplog.records] == said
    with hashed_fields():
        expected = Pipeline(2.0, [GaussianNoise()], executor="canvas")(HR, SEEDS[:3])
    assert all(torch.equal(lr, expected) for lr in found)


def test_what_cannot_be_compiled_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    with pretended_gpu():
        monkeypatch.setattr(torch, "compile", compiler := Compiler())
        invert = Albumentations(albumentations.InvertImg(p=1.0))
        Pipeline(2.0, [invert])(HR.to(GPU), SEEDS[:3])
    assert compiler.batches == 0
