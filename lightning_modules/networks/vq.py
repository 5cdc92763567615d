"""ResShift's VQ-f4 autoencoder: diffusers' ``VQModel`` with the released weights.

Esser et al., CVPR 2021 (arXiv 2012.09841); 55,322,782 parameters in 205 tensors with 3 latent
channels and a codebook of 8192 entries.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from torch import Tensor

if TYPE_CHECKING:
    from diffusers import VQModel

_NAMES = (  # diffusers' names of the same tensors; its decoder levels count in reverse
    (r"^encoder\.down\.(\d+)\.block\.(\d+)\.", r"encoder.down_blocks.\1.resnets.\2."),
    (r"^encoder\.down\.(\d+)\.downsample\.", r"encoder.down_blocks.\1.downsamplers.0."),
    (r"^decoder\.up\.(\d+)\.block\.(\d+)\.", r"decoder.up_blocks.\1.resnets.\2."),
    (r"^decoder\.up\.(\d+)\.upsample\.", r"decoder.up_blocks.\1.upsamplers.0."),
    (r"\.nin_shortcut\.", ".conv_shortcut."),
    (r"\.mid\.block_1\.", ".mid_block.resnets.0."),
    (r"\.mid\.block_2\.", ".mid_block.resnets.1."),
    (r"\.mid\.attn_1\.norm\.", ".mid_block.attentions.0.group_norm."),
    (r"\.mid\.attn_1\.([qkv])\.", r".mid_block.attentions.0.to_\1."),
    (r"\.mid\.attn_1\.proj_out\.", ".mid_block.attentions.0.to_out.0."),
    (r"\.norm_out\.", ".conv_norm_out."),
)
_LEVEL = re.compile(r"^decoder\.up_blocks\.(\d+)\.")


def resshift_vq(
    channels: Sequence[int] = (128, 256, 512), entries: int = 8192, latent: int = 3
) -> VQModel:
    """Create the autoencoder with random weights; each level except the last halves the sides.

    Args:
        channels: Widths of the levels.
        entries: Size of the codebook.
        latent: Channels of a latent and of an entry.
    """
    from diffusers import VQModel

    return VQModel(
        down_block_types=("DownEncoderBlock2D",) * len(channels),
        up_block_types=("UpDecoderBlock2D",) * len(channels),
        block_out_channels=tuple(channels),
        layers_per_block=2,
        latent_channels=latent,
        num_vq_embeddings=entries,
        vq_embed_dim=latent,
        scaling_factor=1.0,
    )


def vq_from_official(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Map released tensors to diffusers' names and shapes.

    Args:
        tensors: Tensors as in the file, ``encoder.down.0.block.0.conv1.weight`` and so on.
    """
    plain = {re.sub(r"module\.|_orig_mod\.", "", name): t for name, t in tensors.items()}
    levels = 1 + max(
        (int(m[1]) for name in plain if (m := re.match(r"decoder\.up\.(\d+)\.", name))), default=0
    )
    found = {}
    for name, tensor in plain.items():
        for pattern, replacement in _NAMES:
            name = re.sub(pattern, replacement, name)
        if match := _LEVEL.match(name):
            name = f"decoder.up_blocks.{levels - 1 - int(match[1])}.{name[match.end() :]}"
        attention = ".attentions." in name and tensor.ndim == 4
        found[name] = tensor.flatten(1) if attention else tensor  # a 1x1 convolution as a matrix
    return found
