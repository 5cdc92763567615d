"""Methods on the pretended GPU: waits and layouts of a training step, outputs, tiles, colours."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple, get_args

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
    "CasArbi": Limit(0, 2, layout=9),  # sigma_r, once a stage
    "SDUpscale": Limit(0, 17),  # a pipeline of diffusers as it is, of two steps
    "Regression": Limit(layout=6),
    **dict.fromkeys(("NSARM", "NSARMStageOne"), Limit(layout=8)),
    **dict.fromkeys(("Diffusion", "FineTune", "LoRA"), Limit(layout=15)),
    "InvSR averaged pixels": Limit(layout=16),
    "SelfCascade": Limit(layout=33),
    "InvSR": Limit(layout=94),
}


def against_a_discriminator(scale: float, folder: Path) -> InvSR:
    judge = LatentDiscriminator(3, widths=(32, 32), layers=(1, 1), heads=1, text_width=None)
    training = Training(starts=STARTS, adversarial_start=0, discriminator=judge)
    parts = (test_models.predictor(), test_models.frozen_denoiser(), Averaged(4))
    model = InvSR(scale, *parts, training=training, patch=8)
    model._trainer = SimpleNamespace(global_step=0, barebones=True)  # type: ignore[assignment]
    return model


def with_a_perceptual_loss(scale: float, folder: Path) -> ResShift:
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


def on_device(batch: dict[str, Any]) -> dict[str, Any]:
    return {
        name: value.to(GPU) if isinstance(value, Tensor) and name != "seed" else value
        for name, value in batch.items()
    }


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize(("name", "make"), CASES)
def test_a_training_step_and_a_batch_of_outputs(
    name: str, make: Any, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    case = request.node.callspec.id
    limit = LIMITS.get(case, LIMITS.get(name, Limit()))
    torch.manual_seed(0)
    model = make(SCALE, tmp_path)
    with pretended_gpu():
        model.to(GPU)
        batch = on_device(batch_for(model))
        operations = Operations()
        if model.automatic_optimization and any(p.requires_grad for p in model.parameters()):
            found = model.train().configure_optimizers()
            optimizer = found["optimizer"] if isinstance(found, dict) else found
            for first in (True, False):  # the first step may copy tables to the device
                with counted() as step, nullcontext() if first else operations:
                    model.on_train_batch_start(batch, 0)
                    model.training_step(batch, 0).backward()
                    optimizer.step()
                if not first:
                    assert step.total() <= limit.step, f"a step waits:\n{step}"
        elif isinstance(model.train(), Adversarial):  # it steps its optimisers itself
            for first in (True, False):
                with counted() as step, nullcontext() if first else operations:
                    loss, made = model.generator_loss(batch)
                    loss.backward()
                    if model.discriminator is not None:
                        model.discriminator_loss(made).backward()
            assert step.total() <= limit.step, f"a step waits:\n{step}"
        assert operations.not_channels_last <= limit.layout
        if isinstance(model, LatentPerceptual):  # it has no outputs
            return
        with torch.no_grad():  # under inference mode, no dispatch would be seen
            model._trainer = None
            model.eval().test_step(batch, 0)
            with counted() as output:
                sr = model.test_step(batch, 0)["sr"]
        assert sr.device == GPU
        assert output.total() <= limit.output, f"an output waits:\n{output}"


def test_tiles(tmp_path: Path) -> None:
    """Nine and more tiles wait no more than one."""
    model: Any = test_models.EXAMPLES[InvSR]["averaged pixels"](SCALE, tmp_path)
    model.set_tiling(Tiling(size=12, overlap=6, batch=4))
    with pretended_gpu():
        given = on_device(batch_of((22, 24), 1))
        moved(model.eval()).predict_step(given, 0)
        with counted() as waits:
            sr = model.predict_step(given, 0)["sr"]
        assert sr.device == GPU
        assert model.tile_count >= 9
    assert not waits, f"tiles wait:\n{waits}"


@pytest.mark.parametrize("kind", get_args(ColorFix))
def test_a_colour_fix(kind: Any) -> None:
    given = batch_of()
    expected = fix_colors(given["hr"], given["lr"], kind)
    with pretended_gpu():
        there = on_device(given)
        for _ in range(2):
            with counted() as waits:
                sr = fix_colors(there["hr"], there["lr"], kind)
        assert not waits, f"colours wait:\n{waits}"
        torch.testing.assert_close(sr.cpu(), expected, rtol=0, atol=1e-5)
