"""Stages in a row, chosen and shuffled, and what a degradation checks of them."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from degradations.base import Canvas, Degradation, Stage, ieee_float32, quantize_8bit
from degradations.bicubic import Bicubic
from degradations.compose import OneOf, Shuffled, Sometimes
from degradations.device import constant
from degradations.draws import Draws, to_device
from degradations.pipeline import Pipeline
from degradations.stages.noise import GaussianNoise, hashed_fields, seeded_randn_like
from degradations.stages.resize import Resize
from tests.contracts.discovery import concrete_subclasses
from tests.make import uniform

HR = uniform(3, 3, 24, 20)
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


class Square(Gain):
    """Square."""

    def forward(self, x, params):
        return x * x


class Probe(Gain):
    """Apply a function."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x, params):
        return self.function(x)


def draw(stage, count):
    return stage.draw(Draws(np.arange(count)), torch.Size((count, 3, 8, 6)))


def factors(params):
    """As a stage gets them: (B, 1, 1, 1) float32."""
    return torch.tensor(params["factor"], dtype=torch.float32).view(-1, 1, 1, 1)


# --------------------------------------------------------------------------------------- pipeline


def test_stages_run_in_order():
    pipeline = Pipeline(1.0, [Gain(), Offset()], quantize=False)
    params = pipeline.params_of(SEEDS, HR.shape)

    lr = pipeline(HR, SEEDS)

    expected = (HR * factors(params["Gain"]) + factors(params["Offset"])).clamp(0, 1)
    torch.testing.assert_close(lr, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    "stages",
    [
        [Gain(), GaussianNoise()],
        [GaussianNoise(), Gain(), Offset()],
        [Offset(), GaussianNoise(), Gain(), GaussianNoise()],
    ],
)
def test_a_stage_draws_the_same_whatever_is_added_before_or_after_it(stages):
    alone = Pipeline(2.0, [GaussianNoise()]).params_of(SEEDS, HR.shape)

    among_others = Pipeline(2.0, stages).params_of(SEEDS, HR.shape)

    np.testing.assert_equal(among_others["GaussianNoise"], alone["GaussianNoise"])


def test_no_stages_are_bicubic():
    assert torch.equal(Pipeline(2.0, [])(HR, SEEDS), Bicubic(2.0)(HR, SEEDS))


def test_what_the_stages_leave_is_clamped_before_it_shrinks():
    """Like a sensor or a file: overexposed pixels do not add light to their neighbours."""
    hr = torch.zeros(3, 3, 8, 8)
    hr[..., ::2] = 1

    assert Pipeline(8.0, [Offset()])(hr, SEEDS).max() < 1


def test_lr_is_rounded_to_8_bits():
    levels = torch.arange(256) / 255
    between = torch.tensor([-0.2, 0.4 / 255, 0.6 / 255, 254.4 / 255, 1.7])

    assert torch.equal(quantize_8bit(levels), levels)
    assert torch.equal(quantize_8bit(between), torch.tensor([0.0, 0.0, 1.0, 254.0, 255.0]) / 255)


def test_many_sizes_do_not_end_a_compiled_run(monkeypatch):
    """torch stops compiling after 8 shapes, and whole images have as many sizes."""
    compiled = []

    def compile_and_note(function, **settings):
        def run(hr, params):
            compiled.append(hr.shape[-1])
            return function(hr, params)

        return run

    monkeypatch.setattr(torch, "compile", compile_and_note)
    pipeline = Pipeline(2.0, [Gain()], executor="canvas", compile=True)

    for width in (20, 22, 20, 24, 26, 28, 30, 20):
        pipeline(torch.rand(3, 3, 24, width), SEEDS)

    assert compiled == [20, 22, 20, 24, 26, 20]
    with torch.no_grad():  # validation has places of its own, and takes none of training's
        for width in (20, 28, 30, 32, 34):
            pipeline(torch.rand(3, 3, 24, width), SEEDS)
    assert compiled[6:] == [20, 28, 30, 32]


# -------------------------------------------------------------------------------- stages of stages


@pytest.mark.parametrize(("p", "least", "most"), [(0.0, 0, 0), (0.3, 1, 15), (1.0, 16, 16)])
def test_sometimes(p, least, most):
    stage = Sometimes(Square(), p)
    x = uniform(16, 3, 8, 6)
    params = draw(stage, 16)
    there = to_device(params, 16, torch.device("cpu"))

    y = stage(x, there)

    assert least <= params["applied"].sum() <= most
    assert torch.equal(stage.on_canvas(Canvas.of(x), there).pixels, y)
    for n, applied in enumerate(params["applied"]):
        assert torch.equal(y[n], x[n] * x[n] if applied else x[n])


def test_one_of():
    stage = OneOf([Square(), Gain(), Offset()], (0.2, 0.3, 0.5))
    x = uniform(16, 3, 8, 6)
    params = draw(stage, 16)

    y = stage(x, to_device(params, 16, torch.device("cpu")))

    choices = [x * x, x * factors(params["Gain"]), x + factors(params["Offset"])]
    assert set(params["which"]) == {0, 1, 2}
    for n, which in enumerate(params["which"]):
        torch.testing.assert_close(y[n], choices[which][n], rtol=0, atol=1e-6)


def test_shuffled():
    stage = Shuffled({"square": Square(), "gain": Gain(), "add": Offset()})
    x = uniform(16, 3, 8, 6)
    params = draw(stage, 16)

    y = stage(x, to_device(params, 16, torch.device("cpu")))

    gain = factors(params["gain"])
    added = factors(params["add"])
    for n, order in enumerate(params["order"]):
        expected = x[n]
        for number in order:
            steps = [expected * expected, expected * gain[n], expected + added[n]]
            expected = steps[number]
        torch.testing.assert_close(y[n], expected, rtol=1e-6, atol=1e-6)


def test_every_order_is_equally_likely():
    order = draw(Shuffled([Square(), Gain(), Offset()]), 4000)["order"]

    counts = np.unique(order, axis=0, return_counts=True)[1]

    assert len(counts) == len(list(itertools.permutations(range(3))))
    # Chi-square with 5 degrees of freedom: 20.5 is exceeded in 1 of 1000.
    expected = 4000 / 6
    assert np.sum((counts - expected) ** 2 / expected) < 20.5


# ---------------------------------------- stages without a method for batches, on a CPU and a GPU


class Vignette(Gain):
    """Darken the corners of each image."""

    def forward(self, x, params):
        height, width = x.shape[-2:]
        row = torch.linspace(-1, 1, height).view(-1, 1)
        column = torch.linspace(-1, 1, width)
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


@pytest.mark.parametrize("sizes_differ", [True, False])
@pytest.mark.parametrize(
    "stage",
    [
        ReadsItsNumber(),
        OneOf([Vignette(), RowNoise(), Gain()]),
        Sometimes(OneOf([Resize(), Shuffled([RowNoise(), Vignette()])]), 0.8),
    ],
    ids=["reads its number", "one of", "nested"],
)
def test_an_lr_is_the_same_one_by_one_and_on_a_canvas(stage, sizes_differ):
    hr = uniform(6, 3, 40, 36)
    stages = [Resize(), stage, Gain()] if sizes_differ else [stage]
    one_by_one = Pipeline(2.0, stages, quantize=False, executor="images")
    together = Pipeline(2.0, stages, quantize=False, executor="canvas")

    with hashed_fields():  # on both, as on a GPU
        expected = one_by_one(hr, torch.arange(6))
        lr = together(hr, torch.arange(6))

    torch.testing.assert_close(lr, expected, rtol=0, atol=1e-5)


def test_a_pixelwise_stage_gets_the_whole_canvas():
    batches = []

    class Pixelwise(Gain):
        pixelwise = True

        def forward(self, x, params):
            batches.append(len(x))
            return super().forward(x, params)

    Pipeline(2.0, [Resize(), Pixelwise()], executor="canvas")(HR, SEEDS)

    assert batches == [3]


def test_shipped_stages_are_not_cut_out_of_the_canvas():
    for cls in concrete_subclasses(Stage, "degradations"):
        assert cls.on_canvas is not Stage.on_canvas or cls.pixelwise, cls


def test_a_subclass_that_overrides_forward_alone_is_not_its_parent():
    class Inverted(GaussianNoise):
        def forward(self, x, params):
            return 1 - x

    lr = Pipeline(1.0, [Inverted()], executor="images")(HR, SEEDS)

    assert torch.equal(lr, quantize_8bit(1 - HR))


# ------------------------------------------------------------------------------ what is checked


class Cropped(Degradation):
    """Return a given part of the HR."""

    def __init__(self, scale, part=...):
        super().__init__(scale)
        self.part = part

    def draw(self, draws, shape):
        return {}

    def degrade(self, hr, params):
        return hr[self.part]


@pytest.mark.parametrize(
    ("degradation", "hr", "words"),
    [
        (
            Pipeline(2.0, [Square(), Probe(torch.Tensor.double)]),
            HR,
            r"Probe returned torch.float64",
        ),
        (Pipeline(2.0, [Square(), Probe(torch.log)]), HR * 0, "Probe returned NaN or infinity"),
        (Cropped(2.0, np.s_[..., :9, :8]), HR, r"\(3, 3, 9, 8\); expected \(3, 3, 12, 10\)"),
        (Cropped(8.0), HR[..., :3], r"24x3 px at scale 8 leaves 3x0 px.*init_args\.scale"),
        (Cropped(1.0), HR * 255, r"hr lies in \[.*\]; expected floats in \[0, 1\]"),
        (Cropped(1.0), (HR * 255).byte(), r"expected floats in \[0, 1\]"),
        (
            Pipeline(2.0, [Probe(lambda x: x.mul_(0.5))], executor="images"),
            HR.clone(),
            "Pipeline changed the HR in place",
        ),
        (
            Pipeline(
                2.0, [Gain(), Sometimes(Probe(lambda x: x.mul_(0.5)), 0.5)], executor="canvas"
            ),
            HR.clone(),
            "Probe changed its images in place",
        ),
    ],
    ids=["dtype", "NaN", "size", "no pixel", "255", "uint8", "HR in place", "stage in place"],
)
def test_a_mistake_in_a_stage_of_one_s_own_is_named(degradation, hr, words):
    with pytest.raises((TypeError, ValueError), match=words):
        degradation(hr, SEEDS)


def test_values_are_read_on_the_first_batch_only():
    """Reading values makes a GPU wait; types and shapes are always checked."""
    degradation = Pipeline(2.0, [Probe(torch.log)])
    degradation(HR.clamp(min=0.1), SEEDS)

    lr = degradation(torch.zeros_like(HR) - 1, SEEDS)

    assert lr.isnan().all()


# ------------------------------------------------------------------------------------- the device


@pytest.mark.parametrize("older", ["highest", "high", "medium"])
def test_full_float32_whichever_way_the_precision_was_set(older):
    """torch cannot read a precision that was set in both ways, and cannot compile."""
    matmul = torch.backends.cuda.matmul
    before = matmul.fp32_precision
    torch.set_float32_matmul_precision(older)
    try:
        set_by_user = (matmul.fp32_precision, matmul.allow_tf32)
        with ieee_float32(torch.device("cuda")):
            assert matmul.fp32_precision == "ieee"
            assert not matmul.allow_tf32
        assert torch.get_float32_matmul_precision() == older
        assert (matmul.fp32_precision, matmul.allow_tf32) == set_by_user
    finally:
        torch.set_float32_matmul_precision("highest")
        matmul.fp32_precision = before


def test_constants_within_what_is_compiled():
    """Several, one of them twice; torch 2.11 takes results assumed constant only once each."""
    ones = constant(lambda: torch.ones(3))
    twos = constant(lambda: torch.full((3,), 2.0))

    def total(x):
        return x + ones(x.device) + twos(x.device) + ones(x.device)

    compiled = torch.compile(total, backend="aot_eager", fullgraph=True)

    assert torch.equal(compiled(torch.zeros(3)), torch.full((3,), 4.0))


class Cropping(Gain):
    """It forgets to say that it changes sizes, so LR would be shifted against HR."""

    def forward(self, x, params):
        return x[..., 1:]


def test_a_stage_that_changes_sizes_unsaid_is_refused():
    recipe = Pipeline(2, {"crop": Cropping()})

    with pytest.raises(TypeError, match="Cropping changed the size"):
        recipe(HR, SEEDS)
