"""Infinity's convolutional autoencoder, whose latents `bsq` turns into bits.

Han et al., Infinity (arXiv 2412.04431): VQGAN's layers without attention. Encoder and decoder are
diffusers'; what is here is how they are put together, and the names in the released files.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from lightning_modules.networks.vq import vq_from_official

# The published files have a layer within each layer; the convolution of a resampling stays.
_INNER = re.compile(r"(?<!sample)\.(conv|norm)(?=\.(weight|bias)$)")
_MASK = re.compile(r"^quantizer?e?\.lfq\.mask$")  # powers of two, for codes as integers


class BitwiseVAE(nn.Module):
    """Images to latents of d channels, and back.

    By default the one of NSARM and Infinity-8B: 8 pixels a position, 14 bits, 81.62 M parameters.
    With five widths, 128 256 512 512 512, and 16 to 64 bits it is that of Infinity-2B, 16 pixels a
    position; 110.12 M with 32 bits.

    Args:
        bits: Channels of the latent, d.
        widths: Channels of each level; all but the last one halve the sides.
        layers: Residual blocks a level of the encoder; the decoder has one more.
        groups: Of channels, in each norm. The mean of a group over the image is taken away, so
            groups of one channel leave little of its colour. 0 leaves the norms out: what is so
            small that it needs none learns colours in a fraction of the steps.

    Raises:
        ValueError: A width is not twice the groups, or three or more times; or a number is too low.
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
        # The layout in memory that convolutions are fastest in; what goes through them follows.
        self.to(memory_format=torch.channels_last)

    @property
    def factor(self) -> int:
        """Pixels a position of the latent is wide."""
        return 2 ** (len(self.encoder.down_blocks) - 1)

    @property
    def _dtype(self) -> torch.dtype:
        return self.encoder.conv_in.weight.dtype

    def encode(self, images: Tensor) -> Tensor:
        """Latents, not yet quantised; in the weights' type whatever the precision, for signs count.

        Args:
            images: (B, 3, H, W) in [0, 1], sides multiples of ``factor``.

        Returns:
            (B, d, H / factor, W / factor).

        Raises:
            ValueError: A side is no multiple.
        """
        h, w = images.shape[-2:]
        if h % self.factor or w % self.factor:
            raise ValueError(f"images are {h}x{w}; expected multiples of {self.factor}")
        with torch.autocast(images.device.type, enabled=False):
            f: Tensor = self.encoder((2 * images.float() - 1).to(self._dtype))
        return f.float()

    def decode(self, total: Tensor) -> Tensor:
        """Images.

        Args:
            total: (B, d, h, w), the sum of all scales' codes.

        Returns:
            (B, 3, h factor, w factor), about [0, 1]; not clamped, for what is trained by them.
        """
        images: Tensor = self.decoder(total.to(self._dtype))
        return (images + 1) / 2


def _without_norms(network: nn.Module) -> None:
    for part in list(network.modules()):
        for name, child in part.named_children():
            if isinstance(child, nn.GroupNorm):
                setattr(part, name, nn.Identity())


def bitwise_vae_from_official(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors of a released file by the names here.

    Both styles are read: ``encoder.conv_in.conv.weight``, as published, and
    ``encoder.conv_in.weight``. What the quantiser keeps, powers of two, is left out.

    Args:
        tensors: As in the file, within ``vae`` or ``ema``.
    """
    plain = {_INNER.sub("", n): tensor for n, tensor in tensors.items() if not _MASK.match(n)}
    return vq_from_official(plain)
