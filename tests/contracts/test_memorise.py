"""Every generative method memorises four images: training as it is, then sampling as it is.

A new generative method gets a test here and a line in `MEMORISES`; a method that generates nothing,
or shares the training of another one, gets a line in `OTHERS` with the reason.
"""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch
from torch import Tensor

import lightning_modules as lm
from degradations.bicubic import resize
from lightning_modules.backbone.library import Flags
from lightning_modules.controls import direct, finetune, sd, simple
from lightning_modules.methods.casarbi import ShiftSampling
from lightning_modules.methods.self_cascade import Tuning
from lightning_modules.networks.feature_upsampler import Full
from lightning_modules.sampling.solvers import Sampler
from tests.contracts import discovery, memorising, test_memorise_invsr, test_memorise_nsarm
from tests.contracts.memorising import SIDE, batch_of, photographs, psnr

learn = functools.partial(memorising.learn, clip=1.0)


def images(model: lm.ImageModel, batch: dict[str, Any]) -> Tensor:
    """What a test would measure, (B, 3, H, W) in [0, 1]."""
    return model.test_step(batch, 0)["sr"]


def decibels_above_bicubic(model: lm.ImageModel, batch: dict[str, Any]) -> float:
    """PSNR of the outputs minus that of bicubic."""
    bicubic = resize(batch["lr"], batch["size"])
    return psnr(images(model, batch), batch["hr"]) - psnr(bicubic, batch["hr"])


def distances(generated: Tensor) -> Tensor:
    """(B,) root mean square difference from the nearest of the four photographs."""
    pairs = generated[:, None] - photographs(generated.shape[-1])[None]
    return pairs.square().mean((2, 3, 4)).sqrt().min(1).values


def adam(rate: float) -> Any:
    return functools.partial(torch.optim.Adam, lr=rate)


@pytest.mark.slow
def test_resshift(tmp_path):
    torch.manual_seed(0)
    sizes = {"width": 32, "multipliers": (1, 2), "blocks": 1, "swin_width": 32, "heads": 2}
    network = lm.SwinUNet(size=SIDE, condition_factor=0.25, window=4, patch=2, **sizes)
    process = lm.ResidualShift(prediction="residual", input_scale="pixel", kappa=1.0)
    given = {"process": process, "sampler": "dpm_solver_2m", "optimizer": adam(2e-3)}
    model = lm.ResShift(4.0, network, lm.PixelSpace(), **given)
    learn(model, 80, tmp_path)
    assert decibels_above_bicubic(model, batch_of(4.0)) >= 6


@pytest.mark.slow
def test_casarbi(tmp_path):
    torch.manual_seed(0)
    base = functools.partial(lm.LIIF, blocks=1, channels=16, hidden=(16,), global_skip=True)
    network = lm.SFTUNet(16, 32, (1, 2), 1, attention=False, patch=2)
    process = lm.ResidualShift(kappa=4.0, min_noise=0.34, relative=True)
    given = {"process": process, "sampling": ShiftSampling(solver="dpm_solver_2m")}
    given |= {"noise_probability": 0.0, "optimizer": adam(2e-3)}
    model = lm.CasArbi(2.0, base, network=network, **given)
    learn(model, 80, tmp_path)
    assert decibels_above_bicubic(model, batch_of(2.0)) >= 6


@pytest.mark.slow
def test_real_esrgan(tmp_path):
    """Against a discriminator from the first step; HR is not sharpened, so that PSNR says it."""
    torch.manual_seed(0)
    model = lm.RealESRGAN(
        4.0,
        network=functools.partial(lm.SRVGGNetCompact, channels=48, convolutions=5),
        losses={"pixel": lm.Charbonnier()},
        gan=lm.GAN(weight=0.005),
        sharpen=False,
        discriminator=lm.UNetDiscriminator(8),
        optimizer=adam(4e-3),
        lr_scheduler=functools.partial(
            torch.optim.lr_scheduler.OneCycleLR, max_lr=4e-3, total_steps=150
        ),
    )
    memorising.learn(model, 150, tmp_path)
    assert decibels_above_bicubic(model, batch_of(4.0)) >= 6


UNET = {
    **{"in_channels": 3, "out_channels": 3, "block_out_channels": [32, 64], "layers_per_block": 1},
    "down_block_types": ["DownBlock2D", "AttnDownBlock2D"],
    "up_block_types": ["AttnUpBlock2D", "UpBlock2D"],
    **{"norm_num_groups": 8, "attention_head_dim": 16, "cross_attention_dim": 8},
}
COSINE = lm.Schedule(betas="squaredcos_cap_v2", prediction="v_prediction")
SAMPLER = Sampler(25, "trailing", clamp=1.0)


@pytest.fixture(scope="module")
def diffusion(tmp_path_factory):
    """A diffusion that has memorised the photographs at 16 pixels a side."""
    torch.manual_seed(0)
    model = lm.Diffusion(
        1.0, lm.UNet2D(UNET), schedule=COSINE, sampler=SAMPLER, optimizer=adam(2e-3)
    )
    learn(model, 350, tmp_path_factory.mktemp("diffusion"), side=SIDE // 2)
    return model


@pytest.mark.slow
def test_diffusion(diffusion):
    found = distances(images(diffusion, batch_of(1.0, SIDE // 2)))
    assert found.max() < 0.12, found


@pytest.mark.slow
def test_self_cascade(diffusion, tmp_path):
    """Tuned, it is nearer to the photographs than without tuning."""

    def cascade(**settings):
        torch.manual_seed(0)
        denoiser = lm.UNet2D(UNET, flags=Flags(frozen=True))
        denoiser.unet.load_state_dict(diffusion.denoiser.unet.state_dict())
        denoiser.source = "the diffusion above"
        given = {"denoiser": denoiser, "schedule": COSINE, "sampler": SAMPLER}
        return lm.SelfCascade(2.0, **given, **settings)

    tuned, free = cascade(tuning=Tuning(Full), optimizer=adam(1e-3)), cascade().eval()
    learn(tuned, 50, tmp_path)
    batch = batch_of(2.0)
    tuned, free = (distances(images(model, batch)).mean().item() for model in (tuned, free))
    assert tuned < 0.9 * free, (tuned, free)


MEMORISES = {
    lm.CasArbi: test_casarbi,
    lm.Diffusion: test_diffusion,
    lm.RealESRGAN: test_real_esrgan,
    lm.ResShift: test_resshift,
    lm.SelfCascade: test_self_cascade,
    lm.Autoencoder: test_memorise_invsr.test_autoencoder,
    lm.InvSR: test_memorise_invsr.test_invsr,
    lm.Tokenizer: test_memorise_nsarm.test_tokenizer,
    lm.NSARM: test_memorise_nsarm.test_both_stages,
    lm.NSARMStageOne: test_memorise_nsarm.test_both_stages,
}
NOTHING_TRAINED = [simple.Bicubic, simple.RoundTrip]
OTHERS = {
    **dict.fromkeys(NOTHING_TRAINED, "it trains nothing"),
    lm.Regression: "it does not sample",
    lm.LatentPerceptual: "it makes no images",
    **dict.fromkeys([direct.Direct, sd.SDSR, sd.SDUpscale], "it trains nothing"),
    **dict.fromkeys([finetune.FineTune, finetune.LoRA], "it has the loss of Diffusion"),
    lm.Infinity: "it is the base that NSARM's test trains",
}


def test_every_generative_method_has_a_test():
    found = discovery.concrete_subclasses(lm.ImageModel, "lightning_modules")
    names = {cls.__name__ for cls in found if cls not in MEMORISES and cls not in OTHERS}
    assert not names, f"{', '.join(names)}: add a test to MEMORISES in {__name__}"
    assert not MEMORISES.keys() & OTHERS.keys()
