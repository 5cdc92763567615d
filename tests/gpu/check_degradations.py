"""Each stage and recipe on the pretended GPU: the values of the CPU, and no undeclared wait."""

from __future__ import annotations

import functools
from typing import Any

import pytest

from degradations.base import Canvas, Degradation, Stage
from degradations.draws import to_device
from degradations.stages.noise import hashed_fields
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

# Recipes with codecs, which work on the CPU: most waits of a batch. May only fall.
LIMITS = {"Web": 4, "Photograph": 1, "Mixture": 1}


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
    "cls", discovery.concrete_subclasses(Degradation, "degradations"), ids=lambda cls: cls.__name__
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
