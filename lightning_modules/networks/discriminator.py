"""Discriminators of latents and of image patches.

Latents: Yue et al., CVPR 2025 (arXiv 2412.09013), section 3.3 and supplement. 112,082,532
parameters in 519 tensors with the sizes of the release; built of diffusers' blocks, with names as
in the released file. Only for training. Differs from the paper in: text is optional;
``checkpointing`` includes the middle block.

Patches: Isola et al., CVPR 2017 (arXiv 1611.07004), with 70x70 pixels by default, as for VQGAN and
its successors. Group norms replace batch norms, so images of a batch are independent.

Pixels: Wang et al., Real-ESRGAN, ICCVW 2021 (arXiv 2107.10833), section 3.4.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.parametrizations import spectral_norm

from files.numbers import PositiveInt
from lightning_modules.networks.layers import check_sides, conv3x3, embedded_time
from lightning_modules.networks.running import Running

# Of all normalisations except those within transformers.
_GROUPS = 32
_EPS = 1e-5
# Channels of the features of the latent that are resized and joined to the input of every level.
_LATENT_FEATURES = 32
# Of torch's older spectral normalisation, which the authors' code has.
_SPECTRAL_NAMES = {"weight_orig": "original", "weight_u": "0._u", "weight_v": "0._v"}


class LatentDiscriminator(Running):
    """A U-Net with the latent as input, and logits as output, at every size.

    Args:
        latent: Channels of the latent.
        widths: Channels of the levels, multiples of 32 and of ``heads``; between levels the sides
            halve. All levels except the first have attention.
        layers: Residual blocks of each level of the down path; the up path has one more.
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
        heads: PositiveInt = 16,
        text_width: PositiveInt | None = 1024,
        text_heads: PositiveInt = 64,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        # Imported late, as it takes seconds and the help does not need it.
        from diffusers.models.embeddings import TextTimeEmbedding, TimestepEmbedding, Timesteps

        embedding = 4 * widths[0]
        self.latent = latent
        # Kept with the weights, whose shapes do not show it.
        self.trained_with = {"heads": heads, "text_heads": text_heads}
        self.divisor = 2 ** (len(widths) - 1)
        self.time_proj = Timesteps(widths[0], flip_sin_to_cos=True, downscale_freq_shift=0)
        self.time_embedding = TimestepEmbedding(widths[0], embedding)
        self.add_embedding = None
        if text_width is not None:
            self.add_embedding = TextTimeEmbedding(text_width, embedding, text_heads)
        self.conv_in = conv3x3(latent, widths[0])
        self.feature_in = conv3x3(latent, _LATENT_FEATURES)
        self._add_blocks(widths, layers, heads, text_width, embedding)
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
        check_sides(z, self.divisor, self)
        embedded = embedded_time(self, t, z)
        if self.add_embedding is None:
            text = None
        else:
            text = cast(Tensor, text).to(z.dtype).expand(len(z), -1, -1)
            embedded = embedded + self.add_embedding(text)
        return self._logits(z, embedded, text)

    def _logits(self, z: Tensor, embedded: Tensor, text: Tensor | None) -> list[Tensor]:
        """Return the logits of ``forward``, from the embedded timesteps and texts."""
        x = self.conv_in(z)
        features = self.feature_in(z)
        skips = [x]
        for block in self.down_blocks:
            resized = features  # each level also sees the latent
            if features.shape[-2:] != x.shape[-2:]:
                resized = functional.interpolate(features, x.shape[-2:], mode="bicubic")
            x, outputs = self._run(block, text, torch.cat([x, resized], 1), embedded)
            skips += outputs
        x = self._run(self.mid_block, text, x, embedded)
        logits = [self.out_blocks[0](x)]
        for block, head in zip(self.up_blocks, self.out_blocks[1:], strict=True):
            count = len(cast(Any, block).resnets)  # each takes one skip
            x = self._run(block, text, x, tuple(skips[-count:]), embedded)
            skips = skips[:-count]
            logits.append(head(x))
        return logits

    def _run(self, block: Any, text: Tensor | None, *inputs: Any) -> Any:
        """Run a block of diffusers; only those with attention accept the text."""
        if hasattr(block, "attentions"):
            return self.run_block(block, *inputs, encoder_hidden_states=text)
        return self.run_block(block, *inputs)

    def _add_blocks(
        self,
        widths: Sequence[int],
        layers: Sequence[int],
        heads: int,
        text_width: int | None,
        embedding: int,
    ) -> None:
        """Create ``down_blocks``, ``mid_block`` and ``up_blocks``, named as in released files."""
        from diffusers.models.unets import unet_2d_blocks as blocks

        common = {
            "temb_channels": embedding,
            "resnet_eps": _EPS,
            "resnet_act_fn": "silu",
            "resnet_groups": _GROUPS,
        }
        attention = {"num_attention_heads": heads, "cross_attention_dim": text_width}
        last = len(widths) - 1
        self.down_blocks = nn.ModuleList()
        for level, width in enumerate(widths):
            sizes = {
                "in_channels": widths[max(level - 1, 0)] + _LATENT_FEATURES,
                "out_channels": width,
                "num_layers": layers[level],
                "add_downsample": level < last,
                **common,
            }
            if level == 0:
                self.down_blocks.append(blocks.DownBlock2D(**sizes))
            else:
                self.down_blocks.append(blocks.CrossAttnDownBlock2D(**sizes, **attention))
        self.mid_block = blocks.UNetMidBlock2DCrossAttn(
            in_channels=widths[-1], **attention, **common
        )
        self.up_blocks = nn.ModuleList()
        for level in reversed(range(len(widths))):
            sizes = {
                "in_channels": widths[max(level - 1, 0)],  # diffusers' name: of the last skip
                "prev_output_channel": widths[min(level + 1, last)],  # of the input
                "out_channels": widths[level],
                "num_layers": layers[level] + 1,
                "add_upsample": level > 0,
                **common,
            }
            if level == 0:
                self.up_blocks.append(blocks.UpBlock2D(**sizes))
            else:
                self.up_blocks.append(blocks.CrossAttnUpBlock2D(**sizes, **attention))


def _head(width: int) -> nn.Sequential:
    """Create the layers from features to one logit for each position."""
    return nn.Sequential(
        nn.GroupNorm(_GROUPS, width, eps=_EPS),
        nn.SiLU(),
        conv3x3(width, width),
        nn.GroupNorm(_GROUPS, width, eps=_EPS),
        nn.SiLU(),
        conv3x3(width, 1),
    )


class PatchGAN(nn.Module):
    """Convolutions of 4x4, all except the last two with a stride of two.

    Args:
        width: Channels of the first layer; they double with each layer, up to eight times.
        layers: Layers with a stride of two; three have a receptive field of 70x70 pixels.
    """

    def __init__(self, width: PositiveInt = 64, layers: PositiveInt = 3) -> None:
        super().__init__()
        self.network = nn.Sequential()
        inputs = 3
        for n in range(layers + 1):
            outputs = width * min(2**n, 8)
            stride = 2 if n < layers else 1
            # No bias before a norm, which has a shift of its own.
            self.network.append(nn.Conv2d(inputs, outputs, 4, stride, padding=1, bias=n == 0))
            if n > 0:
                self.network.append(nn.GroupNorm(8, outputs))
            self.network.append(nn.LeakyReLU(0.2))
            inputs = outputs
        self.network.append(nn.Conv2d(inputs, 1, 4, padding=1))
        for module in self.modules():  # initialised as in the paper
            if isinstance(module, nn.Conv2d):
                nn.init.normal_(module.weight, 0.0, 0.02)

    def forward(self, images: Tensor) -> list[Tensor]:
        """Return the logits.

        Args:
            images: (B, 3, H, W) in [0, 1].

        Returns:
            One map, (B, 1, h, w).
        """
        logits: Tensor = self.network(2 * images - 1)  # centred at 0
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
        self.conv0 = conv3x3(3, width)
        # Outputs of the convolutions 0 to 8 in widths; as released, the first and the last
        # convolution have no spectral normalisation.
        multiples = (1, 2, 4, 8, 4, 2, 1, 1, 1)
        for number in range(1, 9):
            inputs = multiples[number - 1] * width
            outputs = multiples[number] * width
            kernel, stride = (4, 2) if number <= 3 else (3, 1)  # three halve the sides
            convolution = nn.Conv2d(inputs, outputs, kernel, stride, padding=1, bias=False)
            self.add_module(f"conv{number}", spectral_norm(convolution))
        self.conv9 = conv3x3(width, 1)

    def forward(self, images: Tensor) -> list[Tensor]:
        """Return the logits.

        Args:
            images: (B, 3, H, W), about [0, 1].

        Returns:
            One map, (B, 1, H, W).

        Raises:
            ValueError: If a side is not divisible by 8.
        """
        check_sides(images, 8, self)
        x = self._layer(0, images)
        skips = []
        for number in (1, 2, 3):
            skips.append(x)
            x = self._layer(number, x)
        for number in (4, 5, 6):
            larger = functional.interpolate(x, scale_factor=2, mode="bilinear")
            x = self._layer(number, larger) + skips.pop()
        logits: Tensor = self.conv9(self._layer(8, self._layer(7, x)))
        return [logits]

    def _layer(self, number: int, x: Tensor) -> Tensor:
        """Apply the convolution of this number, and a leaky ReLU."""
        return functional.leaky_relu(self.get_submodule(f"conv{number}")(x), 0.2)

    @staticmethod
    def official(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Rename the tensors of a released file to ours.

        Args:
            tensors: Flat state dict.
        """
        state = {}
        for name, tensor in tensors.items():
            layer, _, kind = name.rpartition(".")
            if kind in _SPECTRAL_NAMES:  # torch's parametrisation has them in a module of its own
                name = f"{layer}.parametrizations.weight.{_SPECTRAL_NAMES[kind]}"
            state[name] = tensor
        return state
