"""`trainer.precision`: what it changes, measured on the CPU method by method."""

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
from tests.contracts.model_contract import SCALE
from tests.contracts.test_models import EXAMPLES
from tests.lightning_modules import next_scale_parts
from tests.lightning_modules.others import KL, OTHERS, batch_for
from tests.make import Convolution
from tests.quick import quick

MIXED = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}
CONVERTED = ("bf16-true", "16-true")
SCALER = 1024.0  # as a gradient scaler would; fp16 has no gradients below 6e-8

METHODS = {cls.__name__: examples for cls, examples in (EXAMPLES | OTHERS).items()}
QUICK = ("Diffusion", "NSARM", "Regression", "ResShift", "SDSR")
# Largest relative distances to float32: of a step's gradient and of outputs; with weights in half
# precision of outputs, or `no` where it is refused. docs/methods/index.md says the largest of them.
LIMITS = {
    "CasArbi": ("0.02, 0.0002", "0.002, 2e-05", "no"),
    "Diffusion": ("0.01, 0.005", "0.0009, 0.0006", "0.005"),
    "Direct": ("-, 0.008", "-, 0.001", "0.008"),
    "FineTune": ("0.03, 0.007", "0.002, 0.0009", "0.007"),
    "InvSR": ("0.03, 0.004", "0.004, 0.0005", "no"),
    "LoRA": ("0.02, 0.008", "0.002, 0.001", "0.008"),
    "NSARM": ("0.07, 0.2", "0.004, 0", "exact"),
    "NSARMStageOne": ("0.02, 0.02", "0.005, 0", "exact"),
    "RealESRGAN": ("0.006, 0.01", "0.0008, 0.002", "no"),
    "Regression": ("0.007, 0.006", "0.002, 0.0008", "no"),
    "ResShift": ("0.003, 0.002", "0.0004, 0.0002", "no"),
    "RoundTrip": ("-, 0.04", "-, 0.006", "0"),
    "SDSR": ("-, 0.007", "-, 0.0008", "0.007"),
    "SelfCascade": ("0.02, 0.009", "0.003, 0.002", "no"),
    "Autoencoder": ("0.2, 0.05", "0.09, 0.03", "0"),
    "Infinity": ("0.006, 0.008", "0.0007, 0", "0.09"),
    "LatentPerceptual": ("0.1, 0.05", "0.009, 0.0009", "no"),
    "SDUpscale": ("-, 0.009", "-, 0.001", "0.009"),
    "Tokenizer": ("0.05, 0.009", "0, 0", "0"),
}


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
    """Each distance is at most its limit, and not far below it."""
    for limit, value in zip(numbers(cell), distances, strict=True):
        assert value <= limit + 1e-9, f"{name} is off by {value:.2g}; the limit is {cell}"
        assert limit <= 30 * value + 0.005, f"{name} is off by {value:.2g}; the limit is {cell}"


# ---------------------------------------------------------------------------------- the limits


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("name", quick(METHODS, *QUICK))
@pytest.mark.parametrize("precision", MIXED)
def test_mixed_precision_is_within_its_limits(name, precision, tmp_path):
    of_gradients = [0.0]
    of_outputs = []
    for variant, build in METHODS[name].items():
        model = example(build, tmp_path / f"example {variant}")
        exact = output_of(model, "32-true")
        of_outputs.append(distance(output_of(model, precision), exact))
        if any(parameter.requires_grad for parameter in model.parameters()):
            exact = gradient_of(model, "32-true")
            of_gradients.append(distance(gradient_of(model, precision), exact))

    cell = dict(zip(("bf16-mixed", "16-mixed", "true"), LIMITS[name], strict=True))[precision]
    check(f"{name} in {precision}", cell, [max(of_gradients), max(of_outputs)])


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("name", quick(METHODS, *QUICK))
def test_converted_models_are_within_its_limits_or_refused(name, tmp_path):
    cell = LIMITS[name][2]
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
