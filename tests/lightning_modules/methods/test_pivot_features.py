"""Places of a U-Net's features: their numbers, widths and sizes."""

from __future__ import annotations

import pytest
import torch

from lightning_modules.backbone.denoiser import UNet2D
from lightning_modules.networks.attachments import Blocks, Skips
from lightning_modules.networks.feature_upsampler import Full, Places, Shared

SD21 = {
    "block_out_channels": [320, 640, 1280, 1280],
    "attention_head_dim": [5, 10, 20, 20],
    "cross_attention_dim": 1024,
}
SDXL = {
    "block_out_channels": [320, 640, 1280],
    "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
    "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
    "attention_head_dim": [5, 10, 20],
    "cross_attention_dim": 2048,
}


def released(config):
    with torch.device("meta"):
        return UNet2D(config, null_token="none")


def test_stable_diffusion():
    unet = released(SD21).unet
    skips = Skips(unet, None)
    assert list(skips.skips.values()) == [2, 5, 8, 11]
    assert list(skips.widths.values()) == [320, 640, 1280, 1280]
    assert list(skips.sizes((128, 128)).values()) == [(n, n) for n in (128, 64, 32, 16)]
    blocks = Blocks(unet, None)
    assert list(blocks.widths) == ["block0", "block1", "block2", "block3", "middle"]
    with torch.device("meta"):
        phi = Shared(Places(skips.widths, unet.time_embedding.linear_2.out_features))
    assert sum(p.numel() for p in phi.parameters()) == 1_932


@pytest.mark.parametrize("kind", [Skips, Blocks])
def test_sdxl(kind):
    """As released: the outputs of its three blocks and of the middle one, or four skips."""
    denoiser = released(SDXL)
    found = kind(denoiser.unet, None)
    names = {
        Skips: ["skip2", "skip5", "skip7", "skip8"],
        Blocks: ["block0", "block1", "block2", "middle"],
    }
    assert list(found.widths) == names[kind]
    assert list(found.widths.values()) == [320, 640, 1280, 1280]
    with torch.device("meta"):
        phi = Full(Places(found.widths, denoiser.unet.time_embedding.linear_2.out_features))
    assert sum(p.numel() for p in phi.parameters()) == 145_457_280
    other = Skips(denoiser.unet, [2, 5, 8, 6])
    with torch.device("meta"):
        phi = Full(Places(other.widths, 1280))
    assert sum(p.numel() for p in phi.parameters()) == 99_573_120
