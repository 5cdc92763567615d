"""Stages in a row, chosen and shuffled, and what a degradation checks of them."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from degradations.base import Canvas, Degradation, Stage, ieee_float32, quantize_8bit
from degradations.bicubic import Bicubic
from degradations.compose import OneOf, Shuffled, Sometimes
from degradations.device import constant
from degradations.draws import to_device
from degradations.pipeline import Pipeline
from degradations.stages.noise import GaussianNoise, hashed_fields, seeded_randn_like
from degradations.stages.resize import Resize
from tests.contracts.discovery import concrete_subclasses
from tests.make import assert_near, drawn, uniform

HR = uniform(3, 3, 24, 20)
SEEDS = torch.arange(3)


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


class Probe(Gain):
    """Apply a function."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x, params):
        return self.function(x)


# --------------------------------------------------------------------------------------- pipeline


def test_stages_run_in_order():
    pipeline = Pipeline(1.0, [Gain(), Offset()], quantize=False)

    lr = pipeline(HR, SEEDS)

    params = to_device(pipeline.params_of(SEEDS, HR.shape), 3, HR.device)
    brighter = Gain()(HR, params["Gain"])
    expected = Offset()(brighter, params["Offset"])
    assert_near(lr, expected.clamp(0, 1), 1e-6)


def test_a_stage_draws_the_same_whatever_is_added_before_or_after_it():
    alone = Pipeline(2.0, [GaussianNoise()]).params_of(SEEDS, HR.shape)

    stages = [Offset(), GaussianNoise(), Gain(), GaussianNoise()]
    among_others = Pipeline(2.0, stages).params_of(SEEDS, HR.shape)

    np.testing.assert_equal(among_others["GaussianNoise"], alone["GaussianNoise"])


def test_a_pipeline_without_stages_is_bicubic():
    lr = Pipeline(2.0, [])(HR, SEEDS)

    assert torch.equal(lr, Bicubic(2.0)(HR, SEEDS))


def test_pixels_are_clamped_before_they_shrink():
    """Like a sensor or a file: overexposed pixels do not add light to their neighbours."""
    hr = torch.zeros(3, 3, 8, 8)
    hr[..., ::2] = 1

    lr = Pipeline(8.0, [Offset()])(hr, SEEDS)

    assert lr.max() < 1  # the mean of 0.5 to 1 and of 1; unclamped, of 0.5 to 1 and of 1.5 to 2


def test_quantize_8bit_clamps_and_rounds_to_levels():
    levels = torch.tensor([-51, 0.4, 0.6, 128, 254.4, 433])

    rounded = quantize_8bit(levels / 255)

    assert torch.equal(rounded, torch.tensor([0, 0, 1, 128, 254, 255]) / 255)


def test_only_the_first_four_sizes_of_training_and_of_validation_are_compiled(monkeypatch):
    """torch stops compiling after 8 shapes, and whole images have many sizes."""
    compiled = []

    def compile_and_note(function, **settings):
        def run(hr, params):
            compiled.append(hr.shape[-1])
            return function(hr, params)

        return run

    monkeypatch.setattr(torch, "compile", compile_and_note)
    pipeline = Pipeline(2.0, [Gain()], executor="canvas", compile=True)

    for width in (20, 22, 20, 24, 26, 28, 30, 20):
        pipeline(uniform(3, 3, 24, width), SEEDS)
    assert compiled == [20, 22, 20, 24, 26, 20]  # the first four widths

    compiled.clear()
    with torch.no_grad():  # validation has places of its own, and takes none of training's
        for width in (20, 28, 30, 32, 34):
            pipeline(uniform(3, 3, 24, width), SEEDS)
    assert compiled == [20, 28, 30, 32]


# -------------------------------------------------------------------------------- stages of stages


@pytest.mark.parametrize("p", [0.0, 1.0])
def test_sometimes_with_a_probability_of_0_or_1_is_never_or_always(p):
    stage = Sometimes(Gain(), p)
    images = uniform(4, 3, 8, 6)
    params = drawn(stage, 4)

    canvas = stage.on_canvas(Canvas.of(images), params)

    expected = Gain()(images, params["stage"]) if p else images
    assert torch.equal(canvas.pixels, expected)


def test_every_order_is_equally_likely():
    stage = Shuffled([Gain(), Gain(), Offset()])

    order = drawn(stage, 4000)["order"]

    orders, counts = order.unique(dim=0, return_counts=True)
    expected = 4000 / 6
    assert len(orders) == 6
    # Chi-square with 5 degrees of freedom: 20.5 is exceeded in 1 of 1000.
    assert ((counts - expected) ** 2 / expected).sum() < 20.5


# --------------------------------------------------------- stages without a method for a canvas


class Vignette(Gain):
    """Darken the lower right of each image."""

    def forward(self, x, params):
        height, width = x.shape[-2:]
        row = torch.linspace(0, 1, height).view(-1, 1)
        column = torch.linspace(0, 1, width)
        return x * (1 - params["factor"].view(-1, 1, 1, 1) * row * column)


class RowNoise(Gain):
    """Add a number to each row."""

    def draw(self, draws, shape):
        return {"field_seeds": draws.seeds()}

    def forward(self, x, params):
        return x + 0.1 * seeded_randn_like(x[..., :1], params["field_seeds"])


class ReadsItsNumber(Gain):
    """Written for one image at a time: `item` refuses several."""

    def forward(self, x, params):
        return x * params["factor"].item()


@pytest.mark.parametrize("before", [[], [Resize()]], ids=["one size", "differing sizes"])
@pytest.mark.parametrize(
    "stage",
    [
        ReadsItsNumber(),
        OneOf([Vignette(), RowNoise(), Gain()]),
        Sometimes(OneOf([Resize(), Shuffled([RowNoise(), Vignette()])]), p=0.8),
    ],
    ids=["reads its number", "one of", "nested"],
)
def test_an_lr_is_the_same_one_by_one_and_on_a_canvas(stage, before):
    hr = uniform(16, 3, 40, 36)  # so that each stage and order occurs
    stages = [*before, stage, Gain()]
    one_by_one = Pipeline(2.0, stages, quantize=False, executor="images")
    together = Pipeline(2.0, stages, quantize=False, executor="canvas")

    with hashed_fields():  # noise of a GPU on both
        expected = one_by_one(hr, torch.arange(16))
        lr = together(hr, torch.arange(16))

    assert_near(lr, expected, 1e-5)


def test_every_shipped_stage_has_a_method_for_a_canvas_or_is_pixelwise():
    """Others run image by image, which keeps a GPU waiting."""
    for cls in concrete_subclasses(Stage, "degradations"):
        assert cls.on_canvas is not Stage.on_canvas or cls.pixelwise, cls


def test_forward_of_a_subclass_wins_over_inherited_image_functions():
    """GaussianNoise has image_functions, which the executor "images" calls in place of forward."""

    class Inverted(GaussianNoise):
        def forward(self, x, params):
            return 1 - x

    lr = Pipeline(1.0, [Inverted()], executor="images")(HR, SEEDS)

    assert torch.equal(lr, quantize_8bit(1 - HR))


# ------------------------------------------------------------------------------ what is checked


def darken_in_place(x):
    return x.mul_(0.5)


@pytest.mark.parametrize(
    ("function", "executor", "words"),
    [
        (torch.Tensor.double, "images", "Probe returned torch.float64"),
        (torch.log, "images", "Probe returned NaN or infinity"),
        (lambda x: x[..., 1:], "images", "Probe changed the size"),
        (darken_in_place, "images", "Pipeline changed the HR in place"),
        (darken_in_place, "canvas", "Probe changed its images in place"),
    ],
    ids=["float64", "log of 0", "a column less", "in place", "in place, on a canvas"],
)
def test_a_mistake_in_a_stage_of_ones_own_is_named(function, executor, words):
    pipeline = Pipeline(2.0, [Probe(function)], executor=executor)
    hr = torch.zeros(3, 3, 24, 20)

    with pytest.raises((TypeError, ValueError), match=words):
        pipeline(hr, SEEDS)


class Cropped(Degradation):
    """Return a part of the HR."""

    def draw(self, draws, shape):
        return {}

    def degrade(self, hr, params):
        return hr[..., :9, :8]


@pytest.mark.parametrize(
    ("scale", "hr", "words"),
    [
        (2.0, HR, r"\(3, 3, 9, 8\); expected \(3, 3, 12, 10\)"),
        (8.0, HR[..., :3], r"24x3 px at scale 8 leaves 3x0 px.*init_args\.scale"),
        (1.0, HR * 255, r"hr lies in \[.*\]; expected floats in \[0, 1\]"),
        (1.0, (HR * 255).byte(), r"expected floats in \[0, 1\]"),
    ],
    ids=["size", "no pixel", "255", "uint8"],
)
def test_images_of_a_wrong_size_or_range_are_refused(scale, hr, words):
    with pytest.raises((TypeError, ValueError), match=words):
        Cropped(scale)(hr, SEEDS)


# ------------------------------------------------------------------------------------- the device


@pytest.fixture
def matmul():
    """torch's settings of matrix products; those from before come back."""
    settings = torch.backends.cuda.matmul
    before = settings.fp32_precision
    yield settings
    torch.set_float32_matmul_precision("highest")
    settings.fp32_precision = before


@pytest.mark.parametrize("older", ["highest", "medium"])
def test_ieee_float32_holds_within_and_gives_the_setting_back(matmul, older):
    """If torch's older and newer way to set the precision disagree, torch cannot compile."""
    torch.set_float32_matmul_precision(older)
    allowed = matmul.allow_tf32

    with ieee_float32(torch.device("cuda")):
        assert matmul.fp32_precision == "ieee"
        assert not matmul.allow_tf32

    assert torch.get_float32_matmul_precision() == older
    assert matmul.allow_tf32 == allowed


def test_several_constants_can_be_used_within_compiled_code():
    """One of them twice: torch 2.11 takes a result assumed constant only once."""
    ones = constant(lambda: torch.ones(3))
    twos = constant(lambda: torch.full((3,), 2.0))

    def total(x):
        return x + ones(x.device) + twos(x.device) + ones(x.device)

    compiled = torch.compile(total, backend="aot_eager", fullgraph=True)

    assert torch.equal(compiled(torch.zeros(3)), torch.full((3,), 4.0))
