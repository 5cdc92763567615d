"""Small methods with batches of their own, which no contract of `SuperResolver` makes."""

from __future__ import annotations

import pytest
import torch

import lightning_modules as lm
from tests.contracts.model_contract import batch_of
from tests.lightning_modules import next_scale_parts
from tests.lightning_modules.backbone.texts import save_text_encoder

KL = {
    "block_out_channels": [8, 8],
    "norm_num_groups": 4,
    "latent_channels": 4,
    "down_block_types": ["DownEncoderBlock2D"] * 2,
    "up_block_types": ["UpDecoderBlock2D"] * 2,
}


def save_upscaler(folder):
    """Write the released layout of the upscaler, as small as can be; return where."""
    pytest.importorskip("transformers")
    from diffusers import (
        AutoencoderKL,
        DDIMScheduler,
        DDPMScheduler,
        StableDiffusionUpscalePipeline,
        UNet2DConditionModel,
    )
    from transformers import CLIPTextModel, CLIPTokenizer

    save_text_encoder(folder)
    torch.manual_seed(0)
    unet = UNet2DConditionModel(
        in_channels=7,
        out_channels=4,
        block_out_channels=(8, 16),
        layers_per_block=1,
        norm_num_groups=4,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=2,
        cross_attention_dim=8,
        num_class_embeds=1000,
    )
    vae = AutoencoderKL(
        latent_channels=4,
        norm_num_groups=4,
        block_out_channels=(8, 8, 8),
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        scaling_factor=0.08333,
    )
    pipeline = StableDiffusionUpscalePipeline(
        vae=vae,
        unet=unet,
        text_encoder=CLIPTextModel.from_pretrained(folder, subfolder="text_encoder"),
        tokenizer=CLIPTokenizer.from_pretrained(folder, subfolder="tokenizer"),
        low_res_scheduler=DDPMScheduler(beta_schedule="scaled_linear"),
        scheduler=DDIMScheduler(beta_schedule="scaled_linear", prediction_type="v_prediction"),
    )
    saved = folder / "saved"
    pipeline.save_pretrained(saved)
    return str(saved)


def upscaler(scale, folder):
    return lm.SDUpscale(4.0, save_upscaler(folder), steps=2, guidance=3.0)


def perceptual(scale, folder):
    return lm.LatentPerceptual(1.0, lm.KLSpace(KL), widths=(8,) * 5, vgg16=None)


# Each example is a function of the scale and an empty folder, as in tests/contracts/test_models.py.
OTHERS = {
    lm.Autoencoder: {
        "PCA": lambda scale, folder: lm.Autoencoder(1.0, lm.PCASpace()),
        "KL": lambda scale, folder: lm.Autoencoder(1.0, lm.KLSpace(KL)),
        "VQ": lambda scale, folder: lm.Autoencoder(1.0, lm.ResShiftVQ((32, 32), entries=16)),
    },
    lm.Infinity: {
        "": lambda scale, folder: lm.Infinity(
            1, next_scale_parts.space(), next_scale_parts.transformer()
        )
    },
    lm.LatentPerceptual: {"": perceptual},
    lm.SDUpscale: {"": upscaler},
    lm.Tokenizer: {
        "": lambda scale, folder: lm.Tokenizer(1, next_scale_parts.vae(), next_scale_parts.GRIDS)
    },
}


def batch_for(model):
    """The batch of the contracts, with what this model expects."""
    batch = batch_of()
    if isinstance(model, lm.SDUpscale):
        small = batch["lr"][..., :8, :8]
        batch |= {"lr": small, "size": (32, 32), "text": ["a", "b", ""]}
    elif isinstance(model, lm.LatentPerceptual):
        hr = batch["hr"]
        judge = torch.linspace(0, 1, len(hr))
        batch |= {"ref": hr, "p0": hr * 0.9, "p1": hr.flip(-1), "judge": judge}
    elif type(model) in OTHERS:
        batch |= {"lr": batch["hr"], "size": tuple(batch["hr"].shape[-2:])}
    return batch
