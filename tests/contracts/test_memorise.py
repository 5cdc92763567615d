"""Every generative method memorises four images: training as it is, then sampling as it is.

A new generative method gets a test here and a line in `MEMORISES`; a method that generates nothing,
or shares the training of another one, gets a line in `OTHERS` with the reason.
"""

from __future__ import annotations

import functools

import pytest
import torch
from skimage.data import astronaut

import lightning_modules as lm
from datamodules.base import SRDataModule
from degradations.bicubic import Bicubic, resize
from lightning_modules.backbone.library import Flags
from lightning_modules.first_stage.autoencoder import AutoencoderLosses
from lightning_modules.first_stage.tokenizer import TokenizerLosses
from lightning_modules.methods.casarbi import ShiftSampling
from lightning_modules.methods.infinity import Bitwise
from lightning_modules.methods.invsr import Sampling, Training
from lightning_modules.methods.nsarm import StageTwo
from lightning_modules.methods.self_cascade import Tuning
from lightning_modules.networks.feature_upsampler import Full
from lightning_modules.noise import Noise
from lightning_modules.sampling.solvers import Sampler
from tests.contracts import discovery
from tests.datamodules.memory import Memory, trainer, with_crops

SIDE = 32


# ---------------------------------------------------------------------------- the four photographs


@functools.cache
def photographs(side=SIDE):
    """(4, 3, side, side) in [0, 1]: parts of a photograph, in levels of 1/255."""
    image = torch.from_numpy(astronaut()).permute(2, 0, 1)[None] / 255
    corners = [(0, 150), (60, 200), (200, 100), (300, 300)]
    parts = torch.cat([image[..., y : y + 192, x : x + 192] for y, x in corners])
    return (resize(parts, (side, side)) * 255).round() / 255


def batch_of(scale, side=SIDE):
    """The four photographs, as the data module gives them in a test."""
    hr = photographs(side)
    lr = resize(hr, (round(side / scale), round(side / scale)))
    return {
        "key": ["p0", "p1", "p2", "p3"],
        "seed": torch.arange(4),
        "size": (side, side),
        "hr": hr,
        "lr": (lr * 255).round() / 255,
    }


def adam(rate):
    return {"optimizer": functools.partial(torch.optim.Adam, lr=rate)}


def one_cycle(rate, steps):
    """Adam with a rate that falls to 0."""
    schedule = torch.optim.lr_scheduler.OneCycleLR
    falls = functools.partial(schedule, max_lr=rate, total_steps=steps)
    return adam(rate) | {"lr_scheduler": falls}


def learn(model, root, steps, side=SIDE, batch_size=16, clip=None):
    """Train on the four photographs, with a fixed seed."""
    pixels = (photographs(side) * 255).byte().permute(0, 2, 3, 1).numpy()
    data = SRDataModule(
        model.scale,
        train=Memory({f"p{n}": {"hr": image} for n, image in enumerate(pixels)}),
        **with_crops({"per_image": 64, "flips": False}),
        batch_size=batch_size,
        crop_size=side,
        workers=0,
        degradation=Bicubic(model.scale),
    )
    run = trainer(root, max_steps=steps, max_epochs=-1, gradient_clip_val=clip)
    torch.manual_seed(0)
    run.fit(model, datamodule=data)
    model.eval()


def psnr(sr, hr):
    """The mean over images, dB."""
    return -10 * (sr - hr).square().flatten(1).mean(1).log10().mean().item()


def decibels(model, side=SIDE):
    """PSNR of what a test would measure."""
    batch = batch_of(model.scale, side)
    return psnr(model.test_step(batch, 0)["sr"], batch["hr"])


def decibels_of_bicubic(scale):
    """PSNR of plain enlargement; 6 dB more are half of its error."""
    batch = batch_of(scale)
    return psnr(resize(batch["lr"], batch["size"]), batch["hr"])


def distances(model, side=SIDE):
    """Root mean square difference of each output from the nearest photograph."""
    generated = model.test_step(batch_of(model.scale, side), 0)["sr"]
    differences = generated[:, None] - photographs(side)[None]
    return differences.square().mean((2, 3, 4)).sqrt().min(1).values


# ------------------------------------------------------------------------------- residual shifting


@pytest.mark.slow
def test_resshift_memorises(tmp_path):
    torch.manual_seed(0)
    network = lm.SwinUNet(
        width=32,
        multipliers=(1, 2),
        blocks=1,
        swin_width=32,
        heads=2,
        size=SIDE,
        condition_factor=0.25,
        window=4,
        patch=2,
    )
    process = lm.ResidualShift(prediction="residual", input_scale="pixel", kappa=1.0)
    settings = {"process": process, "sampler": "dpm_solver_2m"}
    model = lm.ResShift(4.0, network, lm.PixelSpace(), **settings, **adam(2e-3))
    learn(model, tmp_path, steps=80, clip=1.0)
    assert decibels(model) >= decibels_of_bicubic(4.0) + 6


@pytest.mark.slow
def test_casarbi_memorises(tmp_path):
    torch.manual_seed(0)
    model = lm.CasArbi(
        2.0,
        functools.partial(lm.LIIF, blocks=1, channels=16, hidden=(16,), global_skip=True),
        network=lm.SFTUNet(
            features=16, width=32, multipliers=(1, 2), blocks=1, attention=False, patch=2
        ),
        process=lm.ResidualShift(kappa=4.0, min_noise=0.34, relative=True),
        sampling=ShiftSampling(solver="dpm_solver_2m"),
        noise_probability=0.0,
        **adam(2e-3),
    )
    learn(model, tmp_path, steps=80, clip=1.0)
    assert decibels(model) >= decibels_of_bicubic(2.0) + 6


# ------------------------------------------------------------------------------------- Real-ESRGAN


@pytest.mark.slow
def test_real_esrgan_memorises(tmp_path):
    """Against a discriminator from the first step; by PSNR, so HR is not sharpened."""
    torch.manual_seed(0)
    model = lm.RealESRGAN(
        4.0,
        network=functools.partial(lm.SRVGGNetCompact, channels=48, convolutions=5),
        losses={"pixel": lm.Charbonnier()},
        gan=lm.GAN(weight=0.005),
        sharpen=False,
        discriminator=lm.UNetDiscriminator(8),
        **one_cycle(4e-3, steps=150),
    )
    learn(model, tmp_path, steps=150)
    assert decibels(model) >= decibels_of_bicubic(4.0) + 6


# --------------------------------------------------------------------------------------- diffusion

UNET = {
    "in_channels": 3,
    "out_channels": 3,
    "block_out_channels": [32, 64],
    "layers_per_block": 1,
    "down_block_types": ["DownBlock2D", "AttnDownBlock2D"],
    "up_block_types": ["AttnUpBlock2D", "UpBlock2D"],
    "norm_num_groups": 8,
    "attention_head_dim": 16,
    "cross_attention_dim": 8,
}
COSINE = lm.Schedule(betas="squaredcos_cap_v2", prediction="v_prediction")
SAMPLER = Sampler(steps=25, spacing="trailing", clamp=1.0)


@pytest.fixture(scope="module")
def diffusion(tmp_path_factory):
    """A diffusion that has memorised the photographs at 16 pixels a side."""
    torch.manual_seed(0)
    network = lm.UNet2D(UNET)
    model = lm.Diffusion(1.0, network, schedule=COSINE, sampler=SAMPLER, **adam(2e-3))
    learn(model, tmp_path_factory.mktemp("diffusion"), steps=350, side=SIDE // 2, clip=1.0)
    return model


@pytest.mark.slow
def test_diffusion_memorises(diffusion):
    # Of pixels in [0, 1]; the two photographs that are most alike differ by 0.34.
    assert distances(diffusion, SIDE // 2).max() < 0.12


@pytest.mark.slow
def test_self_cascade_memorises(diffusion, tmp_path):
    """Without tuning it enlarges what the diffusion memorised at half of the size.

    Tuned on the photographs, it must come nearer to them, on average by a tenth.
    """

    def cascade(**settings):
        torch.manual_seed(0)
        denoiser = lm.UNet2D(UNET, flags=Flags(frozen=True))
        denoiser.unet.load_state_dict(diffusion.denoiser.unet.state_dict())
        denoiser.source = "the diffusion above"
        base = {"denoiser": denoiser, "schedule": COSINE, "sampler": SAMPLER}
        return lm.SelfCascade(2.0, **base, **settings)

    tuned = cascade(tuning=Tuning(Full), **adam(1e-3))
    learn(tuned, tmp_path, steps=50, clip=1.0)
    tuning_free = cascade().eval()

    assert distances(tuned).mean() < 0.9 * distances(tuning_free).mean()


# ------------------------------------------------------------------------------------------- InvSR

OF_LATENTS = UNET | {
    "in_channels": 12,
    "out_channels": 12,
    "block_out_channels": [32],
    "down_block_types": ["DownBlock2D"],
    "up_block_types": ["UpBlock2D"],
    "mid_block_type": None,
}


@pytest.fixture(scope="module")
def autoencoder(tmp_path_factory):
    torch.manual_seed(0)
    losses = AutoencoderLosses(l1_weight=0.02, l2_weight=1.0)
    space = lm.PCASpace()
    model = lm.Autoencoder(1.0, space, losses, latent_noise=0.05, **one_cycle(3e-3, steps=200))
    learn(model, tmp_path_factory.mktemp("autoencoder"), steps=200)
    return model


@pytest.mark.slow
def test_autoencoder_memorises(autoencoder):
    torch.manual_seed(0)
    start = lm.Autoencoder(1.0, lm.PCASpace())
    start.space.initialise(photographs())
    # 3 dB are half of the squared error of principal components, where it starts.
    assert decibels(autoencoder) >= decibels(start.eval()) + 3


@pytest.mark.slow
def test_invsr_memorises(autoencoder, tmp_path):
    space = lm.PCASpace()
    space.load_state_dict(autoencoder.space.state_dict())
    space.source = "autoencoder.ckpt 0123456789abcdef"
    torch.manual_seed(0)
    network = lm.UNet2D(OF_LATENTS, null_token="zero")
    base = lm.Diffusion(1.0, network, space, timesteps=(0, 300), **one_cycle(2e-3, steps=300))
    learn(base, tmp_path / "base", steps=300)
    denoiser = lm.UNet2D(OF_LATENTS, null_token="zero", flags=Flags(frozen=True))
    denoiser.load_state_dict(base.denoiser.state_dict())
    denoiser.source = "base.ckpt 0123456789abcdef"
    method = lm.InvSR(
        4.0,
        lm.NoisePredictor(12, widths=(64,), layers=1, head_width=32),
        denoiser,
        space,
        sampling=Sampling(start=250),
        training=Training(starts=[250]),
        patch=8,
        **one_cycle(2e-3, steps=600),
    )
    learn(method, tmp_path / "invsr", steps=600)
    # The autoencoder's decoder makes its images, too. -1.5 dB: 1.4 times the squared error.
    assert decibels(method) >= decibels(autoencoder) - 1.5


# ------------------------------------------------------------------------------------------- NSARM

BITS = 16
GRIDS = [(1, 1), (2, 2), (4, 4), (8, 8)]


def vae():
    return lm.BitwiseVAE(BITS, (16, 32, 64), 1, groups=0)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    torch.manual_seed(0)
    losses = TokenizerLosses(
        pixel_distance="l2", pixel_weight=20.0, entropy_weight=0.1, commitment_weight=0.1
    )
    model = lm.Tokenizer(
        1.0,
        vae(),
        GRIDS,
        losses,
        drop_scales=0.0,
        partial_share=0.3,
        partial_least=2,
        clip=1.0,
        **adam(2e-3),
    )
    learn(model, tmp_path_factory.mktemp("tokenizer"), steps=350, batch_size=8)
    return model


@pytest.fixture
def space(tokenizer):
    space = lm.BitwiseSpace(vae(), GRIDS, 1)
    space.vae.load_state_dict(tokenizer.vae.state_dict())
    space.source = "the tokenizer above"
    return space


def mapper():
    return lm.LatentEstimate(BITS, (8, 8), grids=GRIDS[:2], full=(8, 8), width=32, blocks=1)


@pytest.mark.slow
def test_tokenizer_memorises(tokenizer):
    # Its codes are few: the largest of GRIDS, 8x8, has a fourth of an image's side.
    assert decibels(tokenizer) > decibels_of_bicubic(4.0) + 6


@pytest.mark.slow
def test_both_stages_of_nsarm_memorise(space, tokenizer, tmp_path):
    """Stage 1 learns the codes of the two coarsest scales from LR; stage 2, from it, all scales."""
    torch.manual_seed(0)
    settings = {"enlarge_lr": True, "color_fix": "none", **adam(2e-3)}
    first = lm.NSARMStageOne(4.0, space, mapper(), **settings)
    learn(first, tmp_path / "1", steps=150, batch_size=8)
    batch = batch_of(4.0)
    codes = first.codes(batch, batch["lr"], Noise(batch["seed"]))
    of_hr = space.coded(space.encode(batch["hr"]))
    for scale in (0, 1):  # the grids of `mapper`
        share_of_right_bits = (codes[scale] == of_hr[scale].code).float().mean()
        assert share_of_right_bits > 0.95  # a guess has 0.5

    second = lm.NSARM(
        4.0,
        space,
        mapper(),
        lm.InfinityTransformer(
            BITS, depth=2, width=64, heads=2, text_width=128, text_length=1, drop_path=0.0
        ),
        stage_two=StageTwo(mapper_lr=2e-5),
        bits=Bitwise(tau=0.5),
        **settings,
    )
    second.mapper.load_state_dict(first.mapper.state_dict())
    learn(second, tmp_path / "2", steps=300, batch_size=8)
    # The tokenizer's decoder makes its images, too. -0.1 dB: 1.02 times the squared error.
    assert decibels(second) > decibels(tokenizer) - 0.1


# ------------------------------------------------------------------------------------ all of them

MEMORISES = {
    lm.CasArbi: test_casarbi_memorises,
    lm.Diffusion: test_diffusion_memorises,
    lm.RealESRGAN: test_real_esrgan_memorises,
    lm.ResShift: test_resshift_memorises,
    lm.SelfCascade: test_self_cascade_memorises,
    lm.Autoencoder: test_autoencoder_memorises,
    lm.InvSR: test_invsr_memorises,
    lm.Tokenizer: test_tokenizer_memorises,
    lm.NSARM: test_both_stages_of_nsarm_memorise,
    lm.NSARMStageOne: test_both_stages_of_nsarm_memorise,
}
OTHERS = {
    lm.Bicubic: "it trains nothing",
    lm.RoundTrip: "it trains nothing",
    lm.Direct: "it trains nothing",
    lm.SDSR: "it trains nothing",
    lm.SDUpscale: "it trains nothing",
    lm.Regression: "it does not sample",
    lm.LatentPerceptual: "it makes no images",
    lm.FineTune: "it has the loss of Diffusion",
    lm.LoRA: "it has the loss of Diffusion",
    lm.Infinity: "it is the base that NSARM's test trains",
}


def test_every_generative_method_has_a_test():
    found = discovery.concrete_subclasses(lm.ImageModel, "lightning_modules")
    names = {cls.__name__ for cls in found if cls not in MEMORISES and cls not in OTHERS}
    assert not names, f"{', '.join(names)}: add a test to MEMORISES in {__name__}"
    assert not MEMORISES.keys() & OTHERS.keys()
