"""Every ImageModel of the package, and of `--plugin`, keeps its contract."""

from __future__ import annotations

import functools

import pytest
import torch
from torch import nn
from torch.nn import functional

import lightning_modules as lm
from lightning_modules.backbone.library import Flags
from lightning_modules.methods.casarbi import Stages
from lightning_modules.methods.invsr import STARTS, Sampling, Training
from lightning_modules.methods.self_cascade import Tuning
from lightning_modules.sampling.solvers import Sampler
from tests.contracts import discovery
from tests.contracts.arguments import build
from tests.contracts.model_contract import ModelContract
from tests.lightning_modules import next_scale_parts
from tests.make import Averaged


def regression(network, **settings):
    return lambda scale, folder: lm.Regression(scale, functools.partial(network, **settings))


def real_esrgan(network, discriminator=None, **settings):
    return lambda scale, folder: lm.RealESRGAN(
        scale,
        network=functools.partial(network, **settings),
        discriminator=None if discriminator is None else discriminator(4),
    )


def casarbi(adapter):
    def make(scale, folder):
        with torch.random.fork_rng():
            torch.manual_seed(3)  # the frozen base is no part of a checkpoint
            base = lm.LIIF(2.0, blocks=1, channels=8, hidden=(16,), global_skip=True)
        sizes = {"features": 8, "width": 8, "multipliers": (1, 2), "blocks": 1, "patch": 2}
        network = lm.SFTUNet(**sizes, attention=False, adapter=adapter)
        process = lm.ResidualShift(steps=3)
        settings = {"network": network, "process": process, "stages": Stages(1.5)}
        model = lm.CasArbi(scale, lambda scale: base, **settings)
        model.sigma_r.fill_(0.1)
        return model

    return make


class Denoiser(nn.Module):
    """One convolution of the noisy image and the LR one."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(6, 3, 3, padding=1)

    def forward(self, x, t, lr):
        seen = functional.interpolate(lr, x.shape[-2:], mode="nearest-exact")
        return self.conv(torch.cat([x, seen], 1)) + 0.01 * t.view(-1, 1, 1, 1)


SMALLEST = {  # a U-Net of diffusers with one block
    "in_channels": 3,
    "out_channels": 3,
    "block_out_channels": [8],
    "layers_per_block": 1,
    "down_block_types": ["CrossAttnDownBlock2D"],
    "up_block_types": ["CrossAttnUpBlock2D"],
    "norm_num_groups": 4,
    "attention_head_dim": 2,
    "cross_attention_dim": 8,
}


def diffusion(scale, folder):
    """It predicts clean samples, so untrained it is tame."""
    denoiser = lm.UNet2D(SMALLEST)
    sampler = Sampler(steps=3, spacing="trailing", eta=1.0)
    return lm.Diffusion(scale, denoiser, schedule=lm.Schedule(prediction="sample"), sampler=sampler)


def frozen_denoiser():
    """Its weights are always the same, since they are no part of a checkpoint."""
    with torch.random.fork_rng():
        torch.manual_seed(3)
        return lm.UNet2D(SMALLEST, flags=Flags(frozen=True))


def predictor():
    return lm.NoisePredictor(3, widths=(32,), layers=1, head_width=16)


def from_base(method, **settings):
    sampling = {"schedule": lm.Schedule(prediction="sample"), "sampler": Sampler(steps=2, eta=1.0)}
    return lambda scale, folder: method(scale, denoiser=frozen_denoiser(), **settings, **sampling)


def low_rank(scale, folder):
    method = from_base(lm.LoRA)(scale, folder)
    method.load_parts(lambda *_: pytest.fail("it has no part with a file"))  # adds the updates
    return method


def trained_on(scale, folder):
    denoiser = diffusion(scale, folder).denoiser
    denoiser.initial_source = "elsewhere"
    sampling = {"schedule": lm.Schedule(prediction="sample"), "sampler": Sampler(steps=2, eta=1.0)}
    return lm.FineTune(scale, denoiser=denoiser, **sampling)


def nsarm(kind, *parts):
    def make(scale, folder):
        made = [part() for part in (next_scale_parts.space, next_scale_parts.mapper, *parts)]
        return kind(scale, *made)

    return make


# A line for each class of ours that needs more than the scale: functions of the scale and an empty
# folder. Several for one class are all tested.
EXAMPLES = {
    lm.CasArbi: {f"adapter {kind}": casarbi(kind) for kind in ("fourier", "mlp", "none")},
    lm.Diffusion: {"pixels": diffusion},
    lm.Direct: {"pixels": from_base(lm.Direct)},
    lm.FineTune: {"pixels": trained_on},
    lm.InvSR: {
        "averaged pixels": lambda scale, folder: lm.InvSR(
            scale,
            predictor(),
            frozen_denoiser(),
            Averaged(factor=4),
            sampling=Sampling(steps=2),
            training=Training(starts=STARTS),
            patch=8,
        )
    },
    lm.LoRA: {"pixels": low_rank},
    lm.NSARM: {"stage 2": nsarm(lm.NSARM, next_scale_parts.transformer)},
    lm.NSARMStageOne: {"stage 1": nsarm(lm.NSARMStageOne)},
    lm.RealESRGAN: {
        "RRDBNet": real_esrgan(lm.RRDBNet, lm.UNetDiscriminator, channels=8, blocks=1),
        "compact, alone": real_esrgan(lm.SRVGGNetCompact, channels=8, convolutions=2),
    },
    lm.Regression: {
        "EDSR": regression(lm.EDSR, blocks=1, channels=8),
        "EDSR with a skip": regression(lm.EDSR, blocks=1, channels=8, global_skip=True),
        "IMDN": regression(lm.IMDN, channels=16, blocks=2),
        "LIIF": regression(lm.LIIF, blocks=1, channels=8, hidden=(16, 16)),
    },
    lm.ResShift: {"pixels": lambda scale, folder: lm.ResShift(scale, Denoiser(), lm.PixelSpace())},
    lm.RoundTrip: {"TAEF2": lambda scale, folder: lm.RoundTrip(scale, lm.Taef2Space())},
    lm.SDSR: {"pixels, bicubic": from_base(lm.SDSR, upscaler=lm.Bicubic)},
    lm.SelfCascade: {
        "tuning-free": from_base(lm.SelfCascade),
        "tuned": from_base(lm.SelfCascade, tuning=Tuning(lm.Shared)),
    },
}

# What another variant of the class does with other parts: left to `make test-nightly`.
ALIKE = {
    (lm.CasArbi, "adapter mlp"),
    (lm.CasArbi, "adapter none"),
    (lm.RealESRGAN, "compact, alone"),
    (lm.Regression, "EDSR with a skip"),
    (lm.SelfCascade, "tuning-free"),
}
DISCRETE = {lm.NSARM, lm.NSARMStageOne}


def pytest_generate_tests(metafunc):
    if "example" not in metafunc.fixturenames:
        return
    names = ["lightning_modules", *discovery.plugins(metafunc.config)]
    found = discovery.concrete_subclasses(lm.ImageModel, *names)
    found.remove(lm.Infinity)  # of sizes that it has scales for: see test_infinity.py
    found.remove(lm.LatentPerceptual)  # makes no images: see test_latent_perceptual.py
    found.remove(lm.Autoencoder)  # enlarges nothing: see test_autoencoder.py
    found.remove(lm.Tokenizer)  # enlarges nothing: see test_tokenizer.py
    found.remove(lm.SDUpscale)  # comes with a whole pipeline, of factor 4: see test_sd.py
    found = [cls for cls in found if (cls in DISCRETE) == (metafunc.cls is TestDiscreteModels)]
    examples = [
        pytest.param(
            (cls, variant),
            id=" ".join(filter(None, (discovery.full_name(cls), variant))),
            marks=pytest.mark.slow if (cls, variant) in ALIKE else (),
        )
        for cls in found
        for variant in EXAMPLES.get(cls, [""])
    ]
    metafunc.parametrize("example", examples)


class TestModels(ModelContract):
    @pytest.fixture
    def make(self, example, tmp_path):
        cls, variant = example
        if variant:
            return lambda scale: EXAMPLES[cls][variant](scale, tmp_path)
        return lambda scale: build(cls, {}, f"EXAMPLES in {__name__}", scale)


class TestDiscreteModels(TestModels):
    """Those that draw bits, which need images of a size that they have scales for."""

    size = (16, 16)

    @pytest.fixture
    def discrete(self):
        return True
