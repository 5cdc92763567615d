"""Infinity's convolutional autoencoder, whose latents `bsq` quantises to bits.

Han et al., Infinity (arXiv 2412.04431): VQGAN's layers without attention. Encoder and decoder are
diffusers'; this file combines them and maps the names of the released files.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from lightning_modules.networks.vq import vq_from_official

# The published files wrap each layer in another, except the convolution of a resampling.
_INNER = re.compile(r"(?<!sample)\.(conv|norm)(?=\.(weight|bias)$)")
_MASK = re.compile(r"^quantizer?e?\.lfq\.mask$")  # powers of two, for codes as integers


class BitwiseVAE(nn.Module):
    """Autoencoder with latents of d channels.

    The default is that of NSARM and Infinity-8B: 8 pixels per position, 14 bits, 81.62 M
    parameters. With five widths, 128 256 512 512 512, and 16 to 64 bits it is that of Infinity-2B,
    16 pixels per position; 110.12 M with 32 bits.

    Args:
        bits: Channels of the latent, d.
        widths: Channels of each level; all except the last one halve the sides.
        layers: Residual blocks per level of the encoder; the decoder has one more.
        groups: Channel groups of each norm. A norm removes the mean of a group over the image, so
            groups of one channel lose most of the colour. 0 for no norms: small networks, which do
            not need them, then learn colours in a fraction of the steps.

    Raises:
        ValueError: If a width is not two, three or more times the groups, or a number is too low.
    """

    def __init__(
        self,
        bits: int = 14,
        widths: Sequence[int] = (128, 256, 512, 512),
        layers: int = 2,
        groups: int = 32,
    ) -> None:
        super().__init__()
        if min(bits, layers) < 1 or groups < 0 or not widths:
            raise ValueError(
                f"bits is {bits}, layers {layers}, groups {groups} and widths {list(widths)}; "
                "expected 1 or more, or no groups"
            )
        if wrong := [width for width in widths if width < 2 * groups or width % (groups or 1)]:
            raise ValueError(
                f"widths are {list(widths)}; expected twice the {groups} groups of the norms, or "
                f"three or more times, not {wrong[0]}: set other widths, or groups"
            )
        from diffusers.models.autoencoders.vae import Decoder, Encoder  # a second

        kept: dict[str, Any] = {"block_out_channels": tuple(widths), "layers_per_block": layers}
        kept |= {"norm_num_groups": groups or 1}
        self.bits = bits
        self.encoder = Encoder(
            out_channels=bits,
            down_block_types=("DownEncoderBlock2D",) * len(widths),
            double_z=False,
            mid_block_add_attention=False,
            **kept,
        )
        self.decoder = Decoder(
            in_channels=bits,
            up_block_types=("UpDecoderBlock2D",) * len(widths),
            mid_block_add_attention=False,
            **kept,
        )
        if not groups:
            _without_norms(self)
        # The memory layout in which convolutions are fastest; activations follow.
        self.to(memory_format=torch.channels_last)

    @property
    def factor(self) -> int:
        """Pixels per position of the latent, along a side."""
        return 2 ** (len(self.encoder.down_blocks) - 1)

    @property
    def _dtype(self) -> torch.dtype:
        return self.encoder.conv_in.weight.dtype

    def encode(self, images: Tensor) -> Tensor:
        """Encode, without quantising; in the weights' type at any precision, since signs count.

        Args:
            images: (B, 3, H, W) in [0, 1], sides multiples of ``factor``.

        Returns:
            (B, d, H / factor, W / factor).

        Raises:
            ValueError: If a side is no multiple.
        """
        h, w = images.shape[-2:]
        if h % self.factor or w % self.factor:
            raise ValueError(f"images are {h}x{w}; expected multiples of {self.factor}")
        with torch.autocast(images.device.type, enabled=False):
            f: Tensor = self.encoder((2 * images.float() - 1).to(self._dtype))
        return f.float()

    def decode(self, total: Tensor) -> Tensor:
        """Decode to images.

        Args:
            total: (B, d, h, w), the sum of all scales' codes.

        Returns:
            (B, 3, h factor, w factor), about [0, 1]; not clamped, for training.
        """
        images: Tensor = self.decoder(total.to(self._dtype))
        return (images + 1) / 2


def _without_norms(network: nn.Module) -> None:
    for part in list(network.modules()):
        for name, child in part.named_children():
            if isinstance(child, nn.GroupNorm):
                setattr(part, name, nn.Identity())


def bitwise_vae_from_official(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Map tensors of a released file to our names.

    Both styles are supported: ``encoder.conv_in.conv.weight``, as published, and
    ``encoder.conv_in.weight``. The quantiser's powers of two are left out.

    Args:
        tensors: Tensors as in the file, within ``vae`` or ``ema``.
    """
    plain = {_INNER.sub("", n): tensor for n, tensor in tensors.items() if not _MASK.match(n)}
    return vq_from_official(plain)
