"""Discriminators of latents and of image patches.

Latents: Yue et al., CVPR 2025 (arXiv 2412.09013), section 3.3 and supplement. 112,082,532
parameters in 519 tensors with the sizes of the release; built of diffusers' blocks, with names as
in the released file. Only for training. Differs from the paper in: text is optional;
`checkpointing` includes the middle block.

Patches: Isola et al., CVPR 2017 (arXiv 1611.07004), with 70x70 pixels by default, as for VQGAN and
its successors. Group norms replace batch norms, so images of a batch are independent.

Pixels: Wang et al., Real-ESRGAN, ICCVW 2021 (arXiv 2107.10833), section 3.4.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.parametrizations import spectral_norm

from files.numbers import PositiveInt
from lightning_modules.networks.running import Running

_GROUPS, _EPS = 32, 1e-5  # of all normalisations except those within transformers


class LatentDiscriminator(Running):
    """A U-Net with the latent as input, and logits as output, at every size.

    Args:
        latent: Channels of the latent.
        widths: Channels of the levels, multiples of 32 and of ``heads``; between levels the sides
            halve. All levels except the first have attention.
        layers: Residual blocks of each level of the down path; the up path has one more.
        beside: Channels, a multiple of 32, of features of the latent that are resized and added to
            the input of every level of the down path.
        heads: Heads of all attentions.
        text_width: Channels of the text; null for no text and no cross-attention.
        text_heads: Attention heads that pool the text to one vector.
    """

    divisor: int  # of the sides of the latent

    def __init__(
        self,
        latent: PositiveInt = 4,
        widths: Sequence[PositiveInt] = (128, 256, 512),
        layers: Sequence[PositiveInt] = (1, 2, 2),
        beside: PositiveInt = 32,
        heads: PositiveInt = 16,
        text_width: PositiveInt | None = 1024,
        text_heads: PositiveInt = 64,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        # Imported late, as it takes seconds and the help does not need it.
        from diffusers.models.embeddings import TextTimeEmbedding, TimestepEmbedding, Timesteps

        embedding = 4 * widths[0]
        self.latent, self.trained_with = latent, {"heads": heads, "text_heads": text_heads}
        self.divisor = 2 ** (len(widths) - 1)
        self.counts = [count + 1 for count in reversed(layers)]  # of skips, level by level
        self.time_proj = Timesteps(widths[0], flip_sin_to_cos=True, downscale_freq_shift=0)
        self.time_embedding = TimestepEmbedding(widths[0], embedding)
        self.add_embedding = (
            None if text_width is None else TextTimeEmbedding(text_width, embedding, text_heads)
        )
        self.conv_in = nn.Conv2d(latent, widths[0], 3, padding=1)
        self.feature_in = nn.Conv2d(latent, beside, 3, padding=1)
        self.down_blocks, self.mid_block, self.up_blocks = _blocks(
            widths, layers, beside, heads, text_width, embedding
        )
        head_widths = [widths[-1], *reversed(widths)]
        self.out_blocks = nn.ModuleList(_head(width) for width in head_widths)
        self.prepare_to_run()

    def forward(self, z: Tensor, t: Tensor | float, text: Tensor | None = None) -> list[Tensor]:
        """Return logits of being real for each position, at every size.

        Args:
            z: (B, latent, h, w), clean: real, or predicted from timestep t.
            t: Timesteps 0 .. T - 1: (B,), or one for all.
            text: (B or 1, N, text_width); ignored if ``text_width`` is null.

        Returns:
            Logits, one map more than levels: (B, 1, h', w') with h' = h / divisor, doubled after
            each level of the up path except the last.

        Raises:
            ValueError: If a side of the latent is not divisible by ``divisor``.
        """
        h, w = z.shape[-2:]
        if h % self.divisor or w % self.divisor:
            raise ValueError(
                f"the latent is {h}x{w}; {type(self).__name__} needs sides divisible by "
                f"{self.divisor}: choose data.init_args.crop_size accordingly"
            )
        t = t if isinstance(t, Tensor) else torch.full((), t, device=z.device)
        embedded = self.time_embedding(self.time_proj(t.expand(len(z))).to(z.dtype))
        if self.add_embedding is None:
            text = None
        else:
            text = cast(Tensor, text).to(z.dtype).expand(len(z), -1, -1)
            embedded = embedded + self.add_embedding(text)
        return self._logits(z, embedded, text)

    def _logits(self, z: Tensor, embedded: Tensor, text: Tensor | None) -> list[Tensor]:
        x, features = self.conv_in(z), self.feature_in(z)
        skips = [x]
        for block in self.down_blocks:
            if features.shape[-2:] == x.shape[-2:]:
                beside = features
            else:
                beside = functional.interpolate(features, x.shape[-2:], mode="bicubic")
            x, outputs = self._through(block, text, torch.cat([x, beside], 1), embedded)
            skips += outputs
        x = self._through(self.mid_block, text, x, embedded)
        logits = [self.out_blocks[0](x)]
        for count, block, head in zip(
            self.counts, self.up_blocks, self.out_blocks[1:], strict=True
        ):
            skips, taken = skips[:-count], tuple(skips[-count:])
            x = self._through(block, text, x, taken, embedded)
            logits.append(head(x))
        return logits

    def _through(self, block: Any, text: Tensor | None, *inputs: Any) -> Any:
        known = {"encoder_hidden_states": text} if hasattr(block, "attentions") else {}
        return self.run_block(block, *inputs, **known)


def _blocks(
    widths: Sequence[int],
    layers: Sequence[int],
    beside: int,
    heads: int,
    text_width: int | None,
    embedding: int,
) -> tuple[nn.ModuleList, nn.Module, nn.ModuleList]:
    """Create the down blocks, the middle block and the up blocks."""
    from diffusers.models.unets import unet_2d_blocks as blocks

    common = {
        "temb_channels": embedding,
        "resnet_eps": _EPS,
        "resnet_act_fn": "silu",
        "resnet_groups": _GROUPS,
    }
    attention = {"num_attention_heads": heads, "cross_attention_dim": text_width}
    down, up = nn.ModuleList(), nn.ModuleList()
    for level, (width, count) in enumerate(zip(widths, layers, strict=True)):
        sizes = {
            "in_channels": widths[max(level - 1, 0)] + beside,
            "out_channels": width,
            "num_layers": count,
            "add_downsample": level < len(widths) - 1,
            **common,
        }
        down.append(
            blocks.CrossAttnDownBlock2D(**sizes, **attention)
            if level
            else blocks.DownBlock2D(**sizes)
        )
    middle = blocks.UNetMidBlock2DCrossAttn(in_channels=widths[-1], **attention, **common)
    for level in reversed(range(len(widths))):
        sizes = {
            "in_channels": widths[max(level - 1, 0)],  # of the last skip
            "prev_output_channel": widths[min(level + 1, len(widths) - 1)],
            "out_channels": widths[level],
            "num_layers": layers[level] + 1,
            "add_upsample": level > 0,
            **common,
        }
        up.append(
            blocks.CrossAttnUpBlock2D(**sizes, **attention) if level else blocks.UpBlock2D(**sizes)
        )
    return down, middle, up


def _head(width: int) -> nn.Sequential:
    return nn.Sequential(
        nn.GroupNorm(_GROUPS, width, eps=_EPS),
        nn.SiLU(),
        nn.Conv2d(width, width, 3, padding=1),
        nn.GroupNorm(_GROUPS, width, eps=_EPS),
        nn.SiLU(),
        nn.Conv2d(width, 1, 3, padding=1),
    )


class PatchGAN(nn.Module):
    """Convolutions of 4x4, all except the last two with a stride of two.

    Args:
        width: Channels of the first layer; they double with each layer, up to eight times.
        layers: Layers with a stride of two; three have a receptive field of 70x70 pixels.
    """

    def __init__(self, width: PositiveInt = 64, layers: PositiveInt = 3) -> None:
        super().__init__()
        widths = [3, *(width * min(2**n, 8) for n in range(layers + 1))]
        parts: list[nn.Module] = []
        for n, (inputs, outputs) in enumerate(pairwise(widths)):
            stride = 2 if n < layers else 1
            parts.append(nn.Conv2d(inputs, outputs, 4, stride, 1, bias=n == 0))
            if n:
                parts.append(nn.GroupNorm(8, outputs))
            parts.append(nn.LeakyReLU(0.2))
        self.network = nn.Sequential(*parts, nn.Conv2d(widths[-1], 1, 4, 1, 1))
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.normal_(module.weight, 0.0, 0.02)

    def forward(self, images: Tensor) -> list[Tensor]:
        """Return the logits.

        Args:
            images: (B, 3, H, W) in [0, 1].

        Returns:
            One map, (B, 1, h, w).
        """
        logits: Tensor = self.network(2 * images - 1)
        return [logits]


class UNetDiscriminator(nn.Module):
    """A U-Net with spectral normalisation, which judges each pixel.

    Real-ESRGAN (Wang et al., ICCVW 2021; arXiv 2107.10833), section 3.4. 4.4 million parameters
    with the default width.

    Args:
        width: Channels of the first layer; they double three times.
    """

    def __init__(self, width: PositiveInt = 64) -> None:
        super().__init__()
        self.conv0 = nn.Conv2d(3, width, 3, padding=1)
        for number, (inputs, outputs) in enumerate(pairwise((1, 2, 4, 8, 4, 2, 1, 1, 1)), 1):
            down = number <= 3
            size, stride = (4, 2) if down else (3, 1)
            convolution = nn.Conv2d(
                inputs * width, outputs * width, size, stride, padding=1, bias=False
            )
            self.add_module(f"conv{number}", spectral_norm(convolution))
        self.conv9 = nn.Conv2d(width, 1, 3, padding=1)

    def forward(self, images: Tensor) -> list[Tensor]:
        """Return the logits.

        Args:
            images: (B, 3, H, W), about [0, 1].

        Returns:
            One map, (B, 1, H, W).

        Raises:
            ValueError: If a side is not divisible by 8.
        """
        h, w = images.shape[-2:]
        if h % 8 or w % 8:
            raise ValueError(
                f"images are {h}x{w}; UNetDiscriminator needs sides divisible by 8: choose "
                "data.init_args.crop_size accordingly"
            )
        x, passed = self._layer(0, images), []
        for number in (1, 2, 3):
            passed.append(x)
            x = self._layer(number, x)
        for number in (4, 5, 6):
            larger = functional.interpolate(x, scale_factor=2, mode="bilinear")
            x = self._layer(number, larger) + passed.pop()
        logits: Tensor = self.conv9(self._layer(8, self._layer(7, x)))
        return [logits]

    def _layer(self, number: int, x: Tensor) -> Tensor:
        return functional.leaky_relu(self.get_submodule(f"conv{number}")(x), 0.2)

    @staticmethod
    def official(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Rename the tensors of a released file to ours.

        Args:
            tensors: Flat state dict; the authors' code has torch's older spectral normalisation.
        """
        new = {"weight_orig": "original", "weight_u": "0._u", "weight_v": "0._v"}
        return {
            f"{layer}.parametrizations.weight.{new[kind]}" if kind in new else name: tensor
            for name, tensor in tensors.items()
            for layer, _, kind in [name.rpartition(".")]
        }
