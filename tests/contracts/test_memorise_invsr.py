"""InvSR and its parts memorise four images, trained and sampled as they are."""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch

from lightning_modules.backbone.denoiser import UNet2D
from lightning_modules.backbone.library import Flags
from lightning_modules.backbone.space import PCASpace
from lightning_modules.base import ImageModel
from lightning_modules.first_stage.autoencoder import Autoencoder, AutoencoderLosses
from lightning_modules.methods.diffusion import Diffusion
from lightning_modules.methods.invsr import InvSR, Sampling, Training
from lightning_modules.networks.noise_predictor import NoisePredictor
from tests.contracts import memorising
from tests.contracts.memorising import batch_of, photographs, psnr

UNET = {
    **{"in_channels": 12, "out_channels": 12, "block_out_channels": [32], "layers_per_block": 1},
    **{"down_block_types": ["DownBlock2D"], "up_block_types": ["UpBlock2D"]},
    **{"mid_block_type": None, "norm_num_groups": 8, "cross_attention_dim": 8},
}


def learn(model: ImageModel, steps: int, root: Any, rate: float) -> None:
    """Train on the four photographs, with a fixed seed; the learning rate falls to 0."""
    model._make_optimizer = functools.partial(torch.optim.Adam, lr=rate)
    model._make_schedule = functools.partial(
        torch.optim.lr_scheduler.OneCycleLR, max_lr=rate, total_steps=steps
    )
    memorising.learn(model, steps, root)


def decibels(model: ImageModel) -> float:
    """The mean PSNR of what a test would measure."""
    batch = batch_of(model.scale)
    return psnr(model.test_step(batch, 0)["sr"], batch["hr"])


@pytest.fixture(scope="module")
def autoencoder(tmp_path_factory: Any) -> Autoencoder:
    torch.manual_seed(0)
    losses = AutoencoderLosses(l1_weight=0.02, l2_weight=1.0)
    model = Autoencoder(1.0, PCASpace(), losses, latent_noise=0.05)
    learn(model, 200, tmp_path_factory.mktemp("autoencoder"), 3e-3)
    return model


@pytest.mark.slow
def test_autoencoder(autoencoder: Autoencoder) -> None:
    torch.manual_seed(0)
    start = Autoencoder(1.0, PCASpace())
    start.space.initialise(photographs())
    before, after = decibels(start.eval()), decibels(autoencoder)
    assert after >= before + 3


@pytest.mark.slow
def test_invsr(autoencoder: Autoencoder, tmp_path: Any) -> None:
    space = PCASpace()
    space.load_state_dict(autoencoder.space.state_dict())
    space.source = "autoencoder.ckpt 0123456789abcdef"
    torch.manual_seed(0)
    base = Diffusion(1.0, UNet2D(UNET, null_token="zero"), space, timesteps=(0, 300))
    learn(base, 300, tmp_path / "base", 2e-3)
    denoiser = UNet2D(UNET, null_token="zero", flags=Flags(frozen=True))
    denoiser.load_state_dict(base.denoiser.state_dict())
    denoiser.source = "base.ckpt 0123456789abcdef"
    method = InvSR(
        4.0,
        NoisePredictor(12, widths=(64,), layers=1, head_width=32),
        denoiser,
        space,
        sampling=Sampling(start=250),
        training=Training(starts=[250]),
        patch=8,
    )
    learn(method, 600, tmp_path / "invsr", 2e-3)
    assert decibels(method) >= decibels(autoencoder) - 1.5
