"""Narrow networks in the layouts of Self-Cascade's bases, as diffusers saves them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from diffusers import AutoencoderKL, UNet2DConditionModel, UNet3DConditionModel

from tests.lightning_modules.backbone.texts import save_text_encoder
from tests.matrix.small_sd import VAE

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


def save_base(folder: Path, name: str) -> None:
    """Write one in diffusers' layout.

    Args:
        folder: Where to.
        name: sd21, sdxl or video.
    """
    kind, config, two = BASES[name]
    kind(**config).save_pretrained(folder / "unet")
    AutoencoderKL(**VAE).save_pretrained(folder / "vae")
    for second in (False, True)[: 1 + two]:
        save_text_encoder(folder, second)
