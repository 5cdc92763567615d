"""SD-Turbo's folders with networks a tenth as wide, weights from a seed; what goes with them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel

from lightning_modules.backbone.prompt import write
from lightning_modules.networks.latent_lpips import LatentDistance

TEXT = 96  # channels of the prompt
LPIPS = (8, 8, 16, 16, 16)
UNET: dict[str, Any] = {
    "sample_size": 64,
    "block_out_channels": (32, 64, 128, 128),
    "layers_per_block": 2,
    "attention_head_dim": (1, 2, 4, 4),
    "cross_attention_dim": TEXT,
    "use_linear_projection": True,
}
VAE: dict[str, Any] = {
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "block_out_channels": (8, 16, 32, 32),
    "layers_per_block": 1,
    "latent_channels": 4,
    "norm_num_groups": 8,
}


def save_sd(folder: Path) -> None:
    """Write ``unet`` and ``vae``, and beside them ``prompt.safetensors`` and ``lpips.pth``."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        UNet2DConditionModel(**UNET).save_pretrained(folder / "unet")
        AutoencoderKL(**VAE).save_pretrained(folder / "vae")
        torch.save(LatentDistance(4, LPIPS).state_dict(), folder / "lpips.pth")
        texts = torch.randn(2, 1, 77, TEXT)
    made = iter(texts)
    prompts = {"prompt": "sharp", "negative": "blurred"}
    write(folder / "prompt.safetensors", lambda _: next(made), prompts)
