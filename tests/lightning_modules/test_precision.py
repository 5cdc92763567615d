"""`trainer.precision`: the table of docs/methods/index.md, measured on the CPU method by method."""

from __future__ import annotations

from contextlib import nullcontext
from copy import deepcopy
from functools import partial
from types import SimpleNamespace

import pytest
import torch
from lightning.pytorch.plugins.precision import HalfPrecision

from lightning_modules.adversarial import Adversarial
from lightning_modules.backbone.space import KLSpace
from lightning_modules.methods.regression import Regression
from tests.conftest import REPO
from tests.contracts.model_contract import SCALE
from tests.contracts.test_models import EXAMPLES
from tests.lightning_modules import next_scale_parts
from tests.lightning_modules.others import KL, OTHERS, batch_for
from tests.make import Convolution
from tests.quick import quick

MIXED = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}
CONVERTED = ("bf16-true", "16-true")
SCALER = 1024.0  # as a gradient scaler would; fp16 has no gradients below 6e-8

METHODS = {f"`{cls.__name__}`": examples for cls, examples in (EXAMPLES | OTHERS).items()}
QUICK = ("`Diffusion`", "`NSARM`", "`Regression`", "`ResShift`", "`SDSR`")


def table():
    """The cells of each method: largest distances to float32, of a gradient and of outputs."""
    rows = {}
    for line in (REPO / "docs/methods/index.md").read_text().splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if len(cells) == 4:
            rows[cells[0]] = cells[1:]
    return rows


def numbers(cell):
    return [0.0 if word in ("-", "exact") else float(word) for word in cell.split(", ")]


# ------------------------------------------------------------------------------ what is measured


def example(build, folder):
    """A model whose last layers are not 0, so that rounding shows."""
    torch.manual_seed(0)
    folder.mkdir()
    model = build(SCALE, folder)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter += 0.02 * torch.randn(parameter.shape, generator=generator)
    return model


def context_of(model, precision):
    """What Lightning runs a step in, by this precision; the model is converted if need be."""
    if precision in MIXED:
        return partial(torch.autocast, "cpu", MIXED[precision])
    if precision in CONVERTED:
        plugin = HalfPrecision(precision)
        plugin.convert_module(model)
        return plugin.forward_context
    return nullcontext


@torch.no_grad()
def output_of(model, precision):
    """Outputs of a batch, or distances of a judge; in float32."""
    model = deepcopy(model).eval()
    batch = batch_for(model)
    with context_of(model, precision)():
        if hasattr(model, "distances"):
            return torch.stack(model.distances(batch)).float()
        output = model.test_step(batch, 0)["sr"]
    assert output.dtype == torch.float32
    return output


def gradient_of(model, precision):
    """Gradients of a training step, flat and in float32."""
    model = deepcopy(model).train()
    batch = batch_for(model)
    model.on_train_batch_start(batch, 0)
    with context_of(model, precision)():
        if isinstance(model, Adversarial):
            loss, _ = model.generator_loss(batch)
        else:
            loss = model.training_step(batch, 0)
    scale = SCALER if precision == "16-mixed" else 1.0
    (loss * scale).backward()
    gradients = [p.grad.float().flatten() for p in model.parameters() if p.grad is not None]
    return torch.cat(gradients) / scale


def distance(value, exact):
    assert value.isfinite().all()
    return float((value - exact).norm() / exact.norm())


def check(name, cell, distances):
    """Each distance is at most what the docs say, and not far below it."""
    for limit, value in zip(numbers(cell), distances, strict=True):
        assert value <= limit + 1e-9, f"{name} is off by {value:.2g}; the docs say {cell}"
        assert limit <= 30 * value + 0.005, f"{name} is off by {value:.2g}; the docs say {cell}"


# ------------------------------------------------------------------------------------- the table


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("name", quick(METHODS, *QUICK))
@pytest.mark.parametrize("precision", MIXED)
def test_mixed_precision_is_as_far_off_as_the_docs_say(name, precision, tmp_path):
    of_gradients = [0.0]
    of_outputs = []
    for variant, build in METHODS[name].items():
        model = example(build, tmp_path / f"example {variant}")
        exact = output_of(model, "32-true")
        of_outputs.append(distance(output_of(model, precision), exact))
        if any(parameter.requires_grad for parameter in model.parameters()):
            exact = gradient_of(model, "32-true")
            of_gradients.append(distance(gradient_of(model, precision), exact))

    cell = dict(zip(("bf16-mixed", "16-mixed", "true"), table()[name], strict=True))[precision]
    check(f"{name} in {precision}", cell, [max(of_gradients), max(of_outputs)])


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("name", quick(METHODS, *QUICK))
def test_converted_models_are_as_far_off_as_the_docs_say_or_refused(name, tmp_path):
    cell = table()[name][2]
    distances = []
    for variant, build in METHODS[name].items():
        model = example(build, tmp_path / f"example {variant}")
        exact = output_of(model, "32-true")
        for precision in CONVERTED:
            if model.half_outputs:
                distances.append(distance(output_of(model, precision), exact))
                continue
            assert cell == "no"
            with pytest.raises(RuntimeError, match="same"):  # else it would be refused in vain
                output_of(model, precision)

    if cell != "no":
        check(f"{name} in bf16-true or 16-true", cell, [max(distances)])


@pytest.mark.parametrize("precision", CONVERTED)
@pytest.mark.parametrize("stage", ["fit", "test"])
def test_a_converted_model_of_whole_images_is_refused_before_the_first_step(precision, stage):
    model = Regression(SCALE, Convolution)
    model._trainer = SimpleNamespace(precision=precision)
    mixed = precision.replace("true", "mixed")
    with pytest.raises(ValueError, match=f"{precision}, .*set it to {mixed}"):
        model.setup(stage)


# ------------------------------------------------------------------------ autoencoders under fp16


@pytest.fixture
def space():
    """Within fp16 nothing is finite, though the norms bring all back to about 1."""
    torch.manual_seed(0)
    space = KLSpace(KL)
    with torch.no_grad():
        space.vae.encoder.conv_in.weight *= 1e6
        space.vae.decoder.conv_in.weight *= 1e6
    return space


def test_an_autoencoder_is_in_float32(space):
    images = torch.rand(1, 3, 16, 16)
    z = space.encode(images)
    mean, _ = space.distribution(images)
    expected = space.decode(z)
    with torch.autocast("cpu", torch.float16):
        assert torch.equal(space.encode(images), z)
        assert torch.equal(space.distribution(images)[0], mean)
        assert torch.equal(space.decode(z), expected)


def test_the_tokenizers_decoder_is_in_float32():
    space = next_scale_parts.space()
    total = torch.rand(1, 4, 4, 4)
    expected = space.images(total)
    with torch.autocast("cpu", torch.float16):
        assert torch.equal(space.images(total), expected)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_weights_of_an_autoencoder_are_not_converted(space, dtype):
    z = torch.full((1, 4, 4, 4), 0.5)
    expected = space.decode(z)
    space.to(dtype)
    assert {parameter.dtype for parameter in space.parameters()} == {torch.float32}
    assert torch.equal(space.decode(z), expected)
