"""Small U-Nets of diffusers, and an autoencoder, with weights from a seed."""

from __future__ import annotations

from types import SimpleNamespace

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel, UNet3DConditionModel

from lightning_modules import UNet2D, UNet3D
from lightning_modules.backbone.library import Flags
from tests.make import normal

FLAT = {
    "in_channels": 3,
    "out_channels": 3,
    "block_out_channels": [8, 16],
    "layers_per_block": 1,
    "norm_num_groups": 4,
    "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D"],
    "up_block_types": ["CrossAttnUpBlock2D", "UpBlock2D"],
    "attention_head_dim": 2,
    "cross_attention_dim": 6,
}
VIDEO = FLAT | {
    "down_block_types": ["DownBlock3D", "CrossAttnDownBlock3D"],
    "up_block_types": ["CrossAttnUpBlock3D", "UpBlock3D"],
    "attention_head_dim": 4,
}
SDXL = {  # what makes a U-Net one that gets sizes and a pooled text
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 4,
    "projection_class_embeddings_input_dim": 6 * 4 + 5,
}
WRAPPERS = {"image": UNet2D, "video": UNet3D}
CLASSES = {"image": (UNet2DConditionModel, FLAT), "video": (UNet3DConditionModel, VIDEO)}


def bare(kind="image", seed=0, **changes):
    """The network as diffusers has it; all weights random, also those that begin as zeros."""
    cls, config = CLASSES[kind]
    unet = cls(**(config | changes))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in unet.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.2)
    return unet.eval()


def wrapped(kind="image", null="none", flags=None, **changes):
    """Ours, with the same weights, in evaluation mode."""
    denoiser = WRAPPERS[kind](CLASSES[kind][1] | changes, null_token=null, flags=flags)
    denoiser.unet.load_state_dict(bare(kind, **changes).state_dict())
    return denoiser.eval()


def base(kind="image", **changes):
    """The same as a frozen base from a file, with a null text."""
    denoiser = wrapped(kind, null="learned", flags=Flags(frozen=True), **changes)
    denoiser.source = "base.ckpt 0123456789abcdef"
    return denoiser


def small_kl(latent_channels=4, **options):
    """An autoencoder that halves the sides."""
    torch.manual_seed(0)
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        block_out_channels=(8, 16),
        norm_num_groups=4,
        latent_channels=latent_channels,
        **options,
    )


def inputs(kind="image", count=2, channels=3):
    """z_t, t and a text of three tokens."""
    size = (8, 8) if kind == "image" else (3, 8, 8)
    t = torch.tensor([700, 20])[:count]
    return normal(count, channels, *size, seed=1), t, normal(count, 3, 6, seed=2)


def noted(method):
    """A list that fills with the calls of a method's base: `kind`, `z`, `t`, `condition`, `more`.

    The kinds are `forward`, and `features` for the way down alone.
    """
    calls = []

    def watch(kind):
        original = getattr(method.denoiser, kind)

        def call(z, t, condition=None, *more):
            calls.append(SimpleNamespace(kind=kind, z=z, t=t, condition=condition, more=more))
            return original(z, t, condition, *more)

        setattr(method.denoiser, kind, call)

    watch("forward")
    watch("features")
    return calls
