"""`trainer.precision`: what it changes, measured on the CPU method by method."""

from __future__ import annotations

from contextlib import nullcontext
from copy import deepcopy
from types import SimpleNamespace

import pytest
import torch
from lightning.pytorch.plugins.precision import HalfPrecision

from lightning_modules import Adversarial, KLSpace, Regression
from tests.contracts.model_contract import SCALE
from tests.contracts.test_models import EXAMPLES
from tests.lightning_modules import next_scale_parts
from tests.lightning_modules.others import KL, OTHERS, batch_for
from tests.make import Convolution, normal
from tests.quick import quick

MIXED = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}
CONVERTED = ("bf16-true", "16-true")
SCALER = 1024.0  # as a gradient scaler would; fp16 has no gradients below 6e-8

METHODS = {cls.__name__: examples for cls, examples in (EXAMPLES | OTHERS).items()}
QUICK = ("Diffusion", "NSARM", "Regression", "ResShift", "SDSR")
# Largest relative distances to float32, which docs/methods/index.md sums up; "no": refused.
# To measure one again, set it to 0: the failure shows the distance.
LIMITS = {
    # bf16-mixed: gradient, output; 16-mixed: gradient, output; bf16-true and 16-true: output
    "CasArbi": (0.02, 0.0002, 0.002, 2e-05, "no"),
    "Diffusion": (0.01, 0.005, 0.0009, 0.0006, 0.005),
    "Direct": (0, 0.008, 0, 0.001, 0.008),
    "FineTune": (0.03, 0.007, 0.002, 0.0009, 0.007),
    "InvSR": (0.03, 0.004, 0.004, 0.0005, "no"),
    "LoRA": (0.02, 0.008, 0.002, 0.001, 0.008),
    "NSARM": (0.07, 0.2, 0.004, 0, 0),
    "NSARMStageOne": (0.02, 0.02, 0.005, 0, 0),
    "RealESRGAN": (0.006, 0.01, 0.0008, 0.002, "no"),
    "Regression": (0.007, 0.006, 0.002, 0.0008, "no"),
    "ResShift": (0.003, 0.002, 0.0004, 0.0002, "no"),
    "RoundTrip": (0, 0.04, 0, 0.006, 0),
    "SDSR": (0, 0.007, 0, 0.0008, 0.007),
    "SelfCascade": (0.02, 0.009, 0.003, 0.002, 0.009),
    "Autoencoder": (0.2, 0.05, 0.09, 0.03, 0),
    "Infinity": (0.006, 0.008, 0.0007, 0, 0.09),
    "LatentPerceptual": (0.1, 0.05, 0.009, 0.0009, "no"),
    "SDUpscale": (0, 0.009, 0, 0.001, 0.009),
    "Tokenizer": (0.05, 0.009, 0, 0, 0),
}


# ------------------------------------------------------------------------------ what is measured


def examples(name, folder):
    """Models whose last layers are not 0, so that rounding shows."""
    for number, build in enumerate(METHODS[name].values()):
        own_folder = folder / f"example {number}"
        own_folder.mkdir()
        torch.manual_seed(0)
        model = build(SCALE, own_folder)
        generator = torch.Generator().manual_seed(1)
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.data += 0.02 * torch.randn(parameter.shape, generator=generator)
        yield model


def context_of(model, precision):
    """What Lightning runs a step in, by this precision; the model is converted if need be."""
    if precision in MIXED:
        return torch.autocast("cpu", MIXED[precision])
    if precision in CONVERTED:
        plugin = HalfPrecision(precision)
        plugin.convert_module(model)
        return plugin.forward_context()
    return nullcontext()


@torch.no_grad()
def output_of(model, precision):
    """Outputs of a batch, or distances of a judge; in float32."""
    model = deepcopy(model).eval()
    batch = batch_for(model)
    with context_of(model, precision):
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
    with context_of(model, precision):
        if isinstance(model, Adversarial):
            loss, _ = model.generator_loss(batch)
        else:
            loss = model.training_step(batch, 0)
    scale = SCALER if precision == "16-mixed" else 1.0
    (loss * scale).backward()
    gradients = [p.grad.float().flatten() for p in model.parameters() if p.grad is not None]
    return torch.cat(gradients) / scale


def distance(measure, model, precision):
    """The relative distance to float32 of what is measured."""
    exact = measure(model, "32-true")
    rounded = measure(model, precision)
    assert rounded.isfinite().all()
    return float((rounded - exact).norm() / exact.norm())


def assert_near_limit(distances, limit):
    """The largest is at most the limit, and the limit at most 30 times the largest."""
    largest = max(distances, default=0)
    assert largest <= limit + 1e-9
    assert limit <= 30 * largest  # else the table says nothing


# ---------------------------------------------------------------------------------- the limits


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("name", quick(METHODS, *QUICK))
@pytest.mark.parametrize("precision", MIXED)
def test_mixed_precision_is_within_its_limits(name, precision, tmp_path):
    of_gradients = []
    of_outputs = []
    for model in examples(name, tmp_path):
        of_outputs.append(distance(output_of, model, precision))
        if any(parameter.requires_grad for parameter in model.parameters()):
            of_gradients.append(distance(gradient_of, model, precision))

    bf16_gradient, bf16_output, fp16_gradient, fp16_output, _ = LIMITS[name]
    is_bf16 = precision == "bf16-mixed"
    assert_near_limit(of_gradients, bf16_gradient if is_bf16 else fp16_gradient)
    assert_near_limit(of_outputs, bf16_output if is_bf16 else fp16_output)


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("name", quick(METHODS, *QUICK))
def test_converted_models_are_within_their_limits_or_refused(name, tmp_path):
    """`half_outputs` says which: `setup` refuses the others, as the next test shows."""
    *_, limit = LIMITS[name]
    distances = []
    for model in examples(name, tmp_path):
        is_tuned = getattr(model, "upsampler", None) is not None  # Self-Cascade's, beside its base
        assert model.half_outputs == (limit != "no" and not is_tuned)
        for precision in CONVERTED:
            if model.half_outputs:
                distances.append(distance(output_of, model, precision))
            else:
                # Torch's error of mixed types; a method that raises none need not be refused.
                with pytest.raises(RuntimeError, match="same"):
                    output_of(model, precision)
    if distances:
        assert_near_limit(distances, limit)


@pytest.mark.parametrize("precision", CONVERTED)
@pytest.mark.parametrize("stage", ["fit", "test"])
def test_half_precision_of_a_method_that_loses_too_much_is_refused_in_setup(precision, stage):
    model = Regression(SCALE, Convolution)
    model._trainer = SimpleNamespace(precision=precision)
    mixed = precision.replace("true", "mixed")
    with pytest.raises(ValueError, match=f"{precision}, .*set it to {mixed}"):
        model.setup(stage)


@pytest.mark.parametrize(
    ("device", "instructions", "warns"),
    [
        ("cpu", {"architecture": "x86_64", "avx512_bw": False}, True),
        ("cpu", {"architecture": "x86_64", "avx512_bw": True}, False),
        ("cpu", {"architecture": "aarch64"}, False),
        ("cuda", {"architecture": "x86_64", "avx512_bw": False}, False),
    ],
)
def test_bfloat16_is_warned_of_on_a_cpu_that_is_slow_in_it(
    monkeypatch, caplog, device, instructions, warns
):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: instructions, raising=False)
    strategy = SimpleNamespace(root_device=torch.device(device))
    model = Regression(SCALE, Convolution)
    model._trainer = SimpleNamespace(precision="bf16-mixed", strategy=strategy)
    model.setup("fit")
    assert ("--trainer.precision 32-true" in caplog.text) == warns


# ------------------------------------------------------------------------ autoencoders under fp16


@pytest.fixture
def space():
    """Features exceed fp16's largest number, 65504; the norms after them bring them back to 1."""
    torch.manual_seed(0)
    space = KLSpace(KL)
    space.vae.encoder.conv_in.weight.data *= 1e6
    space.vae.decoder.conv_in.weight.data *= 1e6
    return space


def test_an_autoencoder_computes_in_float32_under_autocast(space):
    images = torch.rand(1, 3, 16, 16)
    z = space.encode(images)
    mean, _ = space.distribution(images)
    decoded = space.decode(z)

    with torch.autocast("cpu", torch.float16):
        assert torch.equal(space.encode(images), z)
        assert torch.equal(space.distribution(images)[0], mean)
        assert torch.equal(space.decode(z), decoded)


def test_an_autoencoder_stays_in_float32_where_a_model_is_converted(space):
    z = torch.randn(1, 4, 8, 8)
    decoded = space.decode(z)
    space.to(torch.bfloat16)
    assert {parameter.dtype for parameter in space.parameters()} == {torch.float32}
    assert torch.equal(space.decode(z), decoded)


def test_the_tokenizers_decoder_computes_in_float32_under_autocast():
    """Its features may exceed fp16's largest number, too."""
    space = next_scale_parts.space()
    codes = normal(1, next_scale_parts.BITS, *next_scale_parts.GRIDS[-1])
    expected = space.images(codes)
    with torch.autocast("cpu", torch.float16):
        assert torch.equal(space.images(codes), expected)
