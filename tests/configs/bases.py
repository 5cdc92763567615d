"""Narrow networks in the layouts of Self-Cascade's bases, as diffusers saves them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel, UNet3DConditionModel

from tests.lightning_modules.backbone.texts import save_text_encoder
from tests.small_sd import VAE

WIDTHS = {"norm_num_groups": 4, "layers_per_block": 2}
SD21 = WIDTHS | {  # four resolutions
    **{"sample_size": 64, "block_out_channels": (8, 8, 16, 16), "use_linear_projection": True},
    **{"attention_head_dim": (1, 1, 2, 2), "cross_attention_dim": 8},
}
SDXL = WIDTHS | {  # three, the first without attention
    **{"sample_size": 128, "block_out_channels": (8, 8, 16), "use_linear_projection": True},
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    **{"attention_head_dim": (1, 1, 2), "transformer_layers_per_block": (1, 1, 2)},
    **{"cross_attention_dim": 16, "addition_embed_type": "text_time"},
    **{"addition_time_embed_dim": 4, "projection_class_embeddings_input_dim": 6 * 4 + 5},
}
VIDEO = WIDTHS | {
    **{"sample_size": 32, "block_out_channels": (8, 8, 16, 16), "attention_head_dim": 4},
    "cross_attention_dim": 8,
}
BASES: dict[str, tuple[Any, dict[str, Any], bool]] = {
    "sd21": (UNet2DConditionModel, SD21, False),
    "sdxl": (UNet2DConditionModel, SDXL, True),
    "video": (UNet3DConditionModel, VIDEO, False),
}


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders of the bases in diffusers' layout."""
    folder = tmp_path_factory.mktemp("bases")
    for name, (kind, config, two) in BASES.items():
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            kind(**config).save_pretrained(folder / name / "unet")
            AutoencoderKL(**VAE).save_pretrained(folder / name / "vae")
        for second in (False, True)[: 1 + two]:
            save_text_encoder(folder / name, second)
    return folder


def base_of(folder: Path, name: str) -> tuple[str, ...]:
    place, parts = str(folder / name), "--model.init_args"
    return (
        *(f"{parts}.denoiser.init_args.network", place, f"{parts}.space.init_args.vae", place),
        *(f"{parts}.encoder.init_args.path", place),
    )
