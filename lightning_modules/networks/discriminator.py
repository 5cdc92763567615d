"""InvSR's discriminator: a small U-Net that judges clean latents, given their timestep and text.

Yue et al., CVPR 2025 (arXiv 2412.09013), section 3.3 and supplement. 112,082,532 parameters in 519
tensors with the sizes of the release; built of diffusers' blocks, whose names the released file
has, too. For training alone.
Differs from the paper in: it can do without text; `checkpointing` covers the middle block, too.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from lightning_modules.networks.noise_predictor import from_official

__all__ = ["LatentDiscriminator", "from_official"]  # both files are read alike

_GROUPS, _EPS = 32, 1e-5  # of all normalisations but those within transformers


class LatentDiscriminator(nn.Module):
    """A U-Net that sees the latent at every size and gives logits at every size.

    Args:
        latent: Channels of the latent.
        widths: Channels of the levels, multiples of 32 and of ``heads``; between levels the sides
            halve. There is attention on all but the first one.
        layers: Residual blocks of each level on the way down; one more on the way up.
        beside: Channels, a multiple of 32, of the features of the latent that every level on the
            way down gets besides, brought to its size.
        heads: Attention heads, of all attentions.
        text_width: Channels of the text; null for none, and no attention to it.
        text_heads: Attention heads that make one vector of the text.
        checkpointing: Compute the blocks again in the backward pass instead of keeping what is in
            them: less memory, a third more time.

    Raises:
        ValueError: Arguments that do not fit together.
    """

    divisor: int  # what the sides of the latent have to be divisible by

    def __init__(
        self,
        latent: int = 4,
        widths: Sequence[int] = (128, 256, 512),
        layers: Sequence[int] = (1, 2, 2),
        beside: int = 32,
        heads: int = 16,
        text_width: int | None = 1024,
        text_heads: int = 64,
        checkpointing: bool = False,
    ) -> None:
        super().__init__()
        _check(widths, layers, beside, heads, text_width, text_heads)
        # Takes seconds, and help and error messages come without it.
        from diffusers.models.embeddings import TextTimeEmbedding, TimestepEmbedding, Timesteps

        embedding = 4 * widths[0]
        self.checkpointing, self.divisor = checkpointing, 2 ** (len(widths) - 1)
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
        judged = [widths[-1], *reversed(widths)]
        self.out_blocks = nn.ModuleList(_judge(width) for width in judged)

    def forward(self, z: Tensor, t: Tensor | float, text: Tensor | None = None) -> list[Tensor]:
        """How real each place is, at every size; higher is more so.

        Args:
            z: (B, latent, h, w), clean: real, or predicted from timestep t.
            t: Timesteps 0 .. T - 1: (B,), or one for all.
            text: (B or 1, N, text_width); not looked at where ``text_width`` is null.

        Returns:
            Logits, one more map than there are levels: (B, 1, h', w') with h' = h / divisor, and
            twice that after each level on the way up but the last.

        Raises:
            ValueError: A side of the latent is not divisible by ``divisor``, or there is no text.
        """
        h, w = z.shape[-2:]
        if h % self.divisor or w % self.divisor:
            raise ValueError(
                f"the latent is {h}x{w}; {type(self).__name__} needs sides divisible by "
                f"{self.divisor}: choose data.init_args.crop_size accordingly"
            )
        timesteps = torch.as_tensor(t, device=z.device).expand(len(z))
        embedded = self.time_embedding(self.time_proj(timesteps).to(z.dtype))
        if self.add_embedding is None:
            text = None
        elif text is None:
            raise ValueError(
                f"{type(self).__name__} was made for a text and got none: set its text_width to "
                "null"
            )
        else:
            text = text.to(z.dtype).expand(len(z), -1, -1)
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
        for count, block, judge in zip(
            self.counts, self.up_blocks, self.out_blocks[1:], strict=True
        ):
            skips, taken = skips[:-count], tuple(skips[-count:])
            x = self._through(block, text, x, taken, embedded)
            logits.append(judge(x))
        return logits

    def _through(self, block: Any, text: Tensor | None, *inputs: Any) -> Any:
        known = {"encoder_hidden_states": text} if hasattr(block, "attentions") else {}
        if self.checkpointing and torch.is_grad_enabled():
            run = functools.partial(block, **known)
            # Nothing is drawn in it, so that no state of a generator has to be brought back.
            return checkpoint(run, *inputs, use_reentrant=False, preserve_rng_state=False)
        return block(*inputs, **known)


def _check(
    widths: Sequence[int],
    layers: Sequence[int],
    beside: int,
    heads: int,
    text_width: int | None,
    text_heads: int,
) -> None:
    if len(widths) != len(layers) or not widths:
        raise ValueError(
            f"widths has {len(widths)} numbers and layers has {len(layers)}; expected one of each "
            "for a level"
        )
    if wrong := [width for width in (*widths, beside) if width % _GROUPS or width < _GROUPS]:
        raise ValueError(f"widths or beside has {wrong[0]}; expected multiples of {_GROUPS}")
    if wrong := [width for width in widths if width % heads]:
        raise ValueError(f"widths has {wrong[0]}; expected multiples of heads, {heads}")
    if text_width is not None and text_width % text_heads:
        raise ValueError(
            f"text_width is {text_width}; expected a multiple of text_heads, {text_heads}, or null"
        )


def _blocks(
    widths: Sequence[int],
    layers: Sequence[int],
    beside: int,
    heads: int,
    text_width: int | None,
    embedding: int,
) -> tuple[nn.ModuleList, nn.Module, nn.ModuleList]:
    """The ways down, through the middle and up."""
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


def _judge(width: int) -> nn.Sequential:
    return nn.Sequential(
        nn.GroupNorm(_GROUPS, width, eps=_EPS),
        nn.SiLU(),
        nn.Conv2d(width, width, 3, padding=1),
        nn.GroupNorm(_GROUPS, width, eps=_EPS),
        nn.SiLU(),
        nn.Conv2d(width, 1, 3, padding=1),
    )
