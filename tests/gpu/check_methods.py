"""Methods on the pretended GPU: waits and layouts of a training step, outputs, tiles, colours."""

from __future__ import annotations

from types import SimpleNamespace
from typing import NamedTuple, get_args

import pytest
import torch
from torch import Tensor

from benchmarks.speed.training import Operations
from lightning_modules.adversarial import Adversarial
from lightning_modules.backbone.space import PixelSpace
from lightning_modules.first_stage.latent_perceptual import LatentPerceptual
from lightning_modules.methods.invsr import STARTS, InvSR, Training
from lightning_modules.methods.resshift import ResShift
from lightning_modules.networks.discriminator import LatentDiscriminator
from lightning_modules.sampling.color import ColorFix, fix_colors
from lightning_modules.sampling.tiling import Tiling
from tests.contracts import test_models
from tests.contracts.model_contract import SCALE, batch_of
from tests.gpu.device import GPU, counted, moved, pretended_gpu
from tests.lightning_modules.others import OTHERS, batch_for
from tests.make import Averaged, Distance


class Limit(NamedTuple):
    """Most waits of a training step (forward, backward, optimiser) and of a batch of outputs.

    layout: Most convolutions of a step whose images are not channels_last, such as those of the
        batch, and those behind an attention of diffusers.
    """

    step: int = 0
    output: int = 0
    layout: int = 3


# May only fall. A method that is not listed must not wait at all.
LIMITS = {
    "CasArbi": Limit(output=2, layout=9),  # sigma_r, once a stage
    "SDUpscale": Limit(output=17),  # a pipeline of diffusers as it is, of two steps
    "Regression": Limit(layout=6),
    **dict.fromkeys(("NSARM", "NSARMStageOne"), Limit(layout=8)),
    **dict.fromkeys(("Diffusion", "FineTune", "LoRA"), Limit(layout=15)),
    "InvSR averaged pixels": Limit(layout=16),
    "SelfCascade": Limit(layout=33),
    "InvSR": Limit(layout=94),
}


def against_a_discriminator(scale, folder):
    judge = LatentDiscriminator(3, widths=(32, 32), layers=(1, 1), heads=1, text_width=None)
    training = Training(starts=STARTS, adversarial_start=0, discriminator=judge)
    parts = (test_models.predictor(), test_models.frozen_denoiser(), Averaged(factor=4))
    model = InvSR(scale, *parts, training=training, patch=8)
    model._trainer = SimpleNamespace(global_step=0, barebones=True)
    return model


def with_a_perceptual_loss(scale, folder):
    return ResShift(scale, test_models.Denoiser(), PixelSpace(), perceptual=Distance())


# What another case does with other parts, or more of: left to `make test-nightly`.
ALIKE = {"Direct pixels", "FineTune pixels", "InvSR averaged pixels", "LoRA pixels"} | {
    *(f"{cls.__name__} {name}" for cls, name in test_models.ALIKE)
}
ALL = {
    f"{cls.__name__} {name}".strip(): (cls.__name__, make)
    for cls, examples in {**test_models.EXAMPLES, **OTHERS}.items()
    for name, make in examples.items()
}
ALL |= {
    "InvSR against a discriminator": ("InvSR", against_a_discriminator),
    "ResShift with a perceptual loss": ("ResShift", with_a_perceptual_loss),
}
CASES = [
    pytest.param(*case, id=name, marks=pytest.mark.slow if name in ALIKE else ())
    for name, case in ALL.items()
]
assert ALL.keys() > ALIKE


def on_device(batch):
    there = dict(batch)
    for name, value in batch.items():
        if isinstance(value, Tensor) and name != "seed":
            there[name] = value.to(GPU)
    return there


def training_step_of(model, batch):
    """A function that makes a step; None for a method that is not trained."""
    if model.automatic_optimization and any(p.requires_grad for p in model.parameters()):
        optimizers = model.configure_optimizers()
        optimizer = optimizers["optimizer"] if isinstance(optimizers, dict) else optimizers

        def step():
            model.on_train_batch_start(batch, 0)
            model.training_step(batch, 0).backward()
            optimizer.step()

        return step
    if not isinstance(model, Adversarial):
        return None

    def step_of_both():  # it steps its optimisers itself
        loss, made = model.generator_loss(batch)
        loss.backward()
        if model.discriminator is not None:
            model.discriminator_loss(made).backward()

    return step_of_both


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize(("name", "make"), CASES)
def test_a_step_and_outputs_stay_within_the_limits_of_their_method(name, make, tmp_path, request):
    """A GPU is idle whenever the host waits for it, and convolves channels_last images faster."""
    # The limit of this case, or else of the class.
    limit = LIMITS.get(request.node.callspec.id, LIMITS.get(name, Limit()))
    torch.manual_seed(0)
    model = make(SCALE, tmp_path)
    with pretended_gpu():
        model.to(GPU)
        batch = on_device(batch_for(model))
        step = training_step_of(model.train(), batch)
        if step is not None:
            step()  # the first one may copy tables to the device
            with counted() as waits, Operations() as operations:
                step()
            assert waits.total() <= limit.step, f"a step waits:\n{waits}"
            assert operations.not_channels_last <= limit.layout
        if isinstance(model, LatentPerceptual):  # it has no outputs
            return
        with torch.no_grad():  # under inference mode, no dispatch would be seen
            model._trainer = None  # the stand-in of `against_a_discriminator` cannot test
            model.eval().test_step(batch, 0)
            with counted() as waits:
                sr = model.test_step(batch, 0)["sr"]
        assert sr.device == GPU
        assert waits.total() <= limit.output, f"an output waits:\n{waits}"


def test_tiles_do_not_wait(tmp_path):
    model = test_models.EXAMPLES[InvSR]["averaged pixels"](SCALE, tmp_path)
    model.set_tiling(Tiling(size=12, overlap=6, batch=4))
    with pretended_gpu():
        batch = on_device(batch_of((22, 24), count=1))
        moved(model.eval()).predict_step(batch, 0)
        with counted() as waits:
            sr = model.predict_step(batch, 0)["sr"]

        assert sr.device == GPU
        assert model.tile_count >= 9  # three along either side: each adds 6 to the first 12
    assert not waits, f"tiles wait:\n{waits}"


@pytest.mark.parametrize("kind", get_args(ColorFix))
def test_a_colour_fix_gives_the_images_of_a_cpu(kind):
    batch = batch_of()
    expected = fix_colors(batch["hr"], batch["lr"], kind)
    with pretended_gpu():
        there = on_device(batch)
        for _ in range(2):  # the first time, tables are copied
            with counted() as waits:
                sr = fix_colors(there["hr"], there["lr"], kind)

        torch.testing.assert_close(sr.cpu(), expected, rtol=0, atol=1e-5)
    assert not waits, f"colours wait:\n{waits}"
