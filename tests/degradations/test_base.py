"""Errors of the base classes, and what they guarantee."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from degradations.base import (
    Degradation,
    Stage,
    check_range,
    ieee_float32,
    quantize_8bit,
)
from degradations.compose import Sometimes
from degradations.device import constant
from degradations.pipeline import Pipeline
from degradations.stages.noise import GaussianNoise

HR = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
SEEDS = torch.arange(2)


class Probe(Stage):
    """Apply a function to x and the parameters."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def draw(self, draws, shape):
        return {"u": draws.uniform()}

    def forward(self, x, params):
        return self.function(x, params)


class Crop(Degradation):
    """Return a given part of the HR."""

    def __init__(self, scale, part):
        super().__init__(scale)
        self.part = part

    def draw(self, draws, shape):
        return {}

    def degrade(self, hr, params):
        return hr[self.part]


def through(function):
    return Pipeline(2.0, [Probe(lambda x, params: x), Probe(function)])


class TestStagesAreChecked:
    @pytest.mark.parametrize(
        ("function", "error", "message"),
        [
            (lambda x, p: x.double(), TypeError, r"Probe#2 returned torch\.float64; expected"),
            (lambda x, p: x * math.nan, ValueError, "Probe#2 returned NaN or infinity"),
        ],
    )
    def test_the_culprit_is_named(self, function, error, message):
        with pytest.raises(error, match=message):
            through(function)(HR, SEEDS)

    def test_values_are_read_on_the_first_batch_only(self):
        """Reading values makes a GPU wait; types and shapes are always checked."""
        factors = iter([1.0, 1.0, math.nan, math.nan])  # for one image each
        degradation = through(lambda x, params: x * next(factors))
        degradation(HR, SEEDS)
        assert degradation(HR, SEEDS).isnan().all()


class TestDegradation:
    def test_the_output_size_is_checked(self):
        with pytest.raises(
            ValueError, match=r"Crop returned \(2, 3, 9, 8\); expected \(2, 3, 8, 8"
        ):
            Crop(2.0, np.s_[..., :9, :8])(HR, SEEDS)
        assert Crop(2.0, np.s_[..., :8, :8])(HR, SEEDS).shape == (2, 3, 8, 8)

    def test_less_than_one_pixel(self):
        with pytest.raises(ValueError, match=r"16x3 px at scale 8 leaves 2x0 px.*init_args\.scale"):
            Crop(8.0, ...)(HR[..., :3], SEEDS)

    @pytest.mark.parametrize("hr", [(HR * 255).byte(), HR * 255])
    def test_8_bit_values_are_refused(self, hr):
        with pytest.raises(ValueError, match=r"hr lies in \[.*\]; expected floats in \[0, 1\]"):
            Crop(1.0, ...)(hr, SEEDS)


@pytest.mark.parametrize(
    "values", [(30.0, 1.0), (-1.0, 1.0), (1.0, 101.0), (0.0, math.nan), (0.0, math.inf)]
)
def test_check_range_refuses(values):
    with pytest.raises(ValueError, match=r"sigma is .*expected 0 <= lower <= upper <= 100"):
        check_range(values, "sigma", low=0.0, high=100.0)


def test_quantize_8bit():
    levels = torch.arange(256) / 255
    assert torch.equal(quantize_8bit(levels), levels)
    x = torch.tensor([-0.2, 0.4 / 255, 0.6 / 255, 254.4 / 255, 1.7])
    assert torch.equal(quantize_8bit(x), torch.tensor([0.0, 0.0, 1.0, 254.0, 255.0]) / 255)


@pytest.mark.parametrize("older", ["highest", "high", "medium"])
def test_full_float32_whichever_way_the_precision_was_set(older):
    """torch cannot read a precision that was set in both ways, and cannot compile."""
    matmul, mkldnn = torch.backends.cuda.matmul, torch.backends.mkldnn.matmul
    before = matmul.fp32_precision, mkldnn.fp32_precision
    torch.set_float32_matmul_precision(older)
    try:
        set_by_user = matmul.fp32_precision, matmul.allow_tf32, mkldnn.fp32_precision
        with ieee_float32(torch.device("cuda")):
            assert matmul.fp32_precision == "ieee"
            assert not matmul.allow_tf32
        assert torch.get_float32_matmul_precision() == older
        assert (matmul.fp32_precision, matmul.allow_tf32, mkldnn.fp32_precision) == set_by_user
    finally:
        torch.set_float32_matmul_precision("highest")
        matmul.fp32_precision, mkldnn.fp32_precision = before


class Inverted(GaussianNoise):
    def forward(self, x, params):
        return 1 - x


def test_a_subclass_that_overrides_forward_alone_is_not_its_parent():
    lr = Pipeline(1.0, [Inverted()], executor="images")(HR, SEEDS)
    assert torch.equal(lr, quantize_8bit(1 - HR))


def test_a_stage_that_writes_to_its_images_is_refused():
    stages = [Probe(lambda x, params: x.mul_(0.5))]
    with pytest.raises(ValueError, match="Pipeline changed the HR in place"):
        Pipeline(2.0, stages, executor="images")(HR.clone(), SEEDS)
    stages = [Probe(lambda x, params: x + 0), Sometimes(Probe(lambda x, params: x.mul_(0.5)), 0.5)]
    with pytest.raises(ValueError, match="Probe changed its images in place"):
        Pipeline(2.0, stages, executor="canvas")(HR, SEEDS)
    with torch.inference_mode():  # which does not count changes
        Pipeline(2.0, [])(HR.clone(), SEEDS)


def test_constants_within_what_is_compiled():
    """Several, one of them twice; torch 2.11 takes results assumed constant only once each."""
    ones, twos = constant(lambda: torch.ones(3)), constant(lambda: torch.full((3,), 2.0))

    def total(x):
        return x + ones(x.device) + twos(x.device) + ones(x.device)

    x = torch.zeros(3)
    assert torch.equal(total(x), torch.full((3,), 4.0))
    compiled = torch.compile(total, backend="aot_eager", fullgraph=True)
    assert torch.equal(compiled(x), total(x))
