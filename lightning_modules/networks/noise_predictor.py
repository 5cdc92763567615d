"""InvSR's noise predictor: from the LR image to the noise to add to its latent.

Yue et al., CVPR 2025 (arXiv 2412.09013), section 3. 33,837,576 parameters in 164 tensors with the
sizes of the release; built of diffusers' blocks, with names as in the released file.
Differs from the paper in: other sizes; scales but 4.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from torch import Tensor, nn
from torch.nn import functional

from files.numbers import PositiveInt
from lightning_modules.networks.layers import conv3x3, embedded_time
from lightning_modules.networks.running import Running

_GROUPS = 32  # of all normalisations
_EPS = 1e-6
OUTPUT = 512  # side in pixels of the output that Stable Diffusion and the release are trained for
_LOWEST, _HIGHEST = -30.0, 20.0  # of the logarithm of the variance


class Gaussian(NamedTuple):
    """An independent normal distribution of each value of a latent.

    Args:
        mean: (B, C, h, w).
        logvar: (B, C, h, w), the logarithm of the variance, from -30 to 20.
    """

    mean: Tensor
    logvar: Tensor

    def sample(self, eps: Tensor) -> Tensor:
        """Return one sample (B, C, h, w), with gradients to mean and variance.

        Args:
            eps: (B, C, h, w) of the standard normal distribution.
        """
        return self.mean + (self.logvar / 2).exp() * eps


class NoisePredictor(Running):
    """Predict the distribution of the initial noise from the LR image and a timestep.

    Args:
        latent: Channels of the latent.
        widths: Channels of the levels, multiples of 32 and of ``head_width``.
        layers: Residual blocks per level, each with self-attention over all pixels.
        head_width: Channels of one attention head.
    """

    divisor: int  # of the sides of the LR image
    encoder: Encoder
    regions = ("ResnetBlock2D", "Attention")

    def __init__(
        self,
        latent: PositiveInt = 4,
        widths: Sequence[PositiveInt] = (256, 512),
        layers: PositiveInt = 3,
        head_width: PositiveInt = 64,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.latent = latent
        self.trained_with = {"head_width": head_width}  # weights' shapes do not show it
        self._sizes = (widths, layers, head_width)
        self._build(1)  # for scale 4; `fit_to` builds again for others

    def _build(self, halvings: int) -> None:
        """Create an encoder from LR to a latent, which halves the sides ``halvings`` times."""
        # The encoder's layers halve at most once. For the rest, squares of pixels are folded into
        # channels before them.
        folded = max(halvings - 1, 0)
        self.divisor = 2**halvings
        self.fold = 2**folded
        inputs = 3 * self.fold**2
        self.encoder = Encoder(inputs, 2 * self.latent, *self._sizes, halvings - folded)
        self.prepare_to_run()

    def fit_to(self, scale: float, factor: int) -> None:
        """Halve the sides as often as a scale needs, with new random weights where that changes.

        From LR to the latent, at scale 4 and a factor of 8, sides halve once. Further halvings are
        folded, so that the levels see as many pixels as there, and cost the same for an output of
        the same size.

        Args:
            scale: Factor by which images are enlarged.
            factor: The latents have so many times smaller sides than the output.

        Raises:
            ValueError: If no number of halvings leads from LR to the latents.
        """
        needed = math.log2(factor / scale)
        if scale < 1 or needed < 0 or not needed.is_integer():
            raise ValueError(
                f"{type(self).__name__} halves sides from LR to latents of 1/{factor} of the "
                f"output's: set data.init_args.scale to a power of two from 1 to {factor}"
            )
        if self.divisor != 2**needed:  # else loaded weights are kept
            trains = self.encoder.conv_in.weight.requires_grad
            self._build(int(needed))
            self.requires_grad_(trains)

    def forward(self, lr: Tensor, t: Tensor | float) -> Gaussian:
        """Return the distribution of the noise.

        Args:
            lr: (B, 3, h, w) in [0, 1], not enlarged; sides divisible by ``divisor``.
            t: Training timestep to start at, possibly fractional: (B,), or one for all.

        Returns:
            Mean and logarithm of the variance, each (B, latent, h / divisor, w / divisor).
        """
        pixels = functional.pixel_unshuffle(lr * 2 - 1, self.fold)  # the release takes [-1, 1]
        mean, logvar = self.encoder(pixels, t, self.run_block).chunk(2, dim=1)
        return Gaussian(mean, logvar.clamp(_LOWEST, _HIGHEST))


class Encoder(nn.Module):
    """A stack of residual blocks and attentions, conditioned on the timestep.

    Args:
        inputs: Channels in.
        outputs: Channels out.
        widths: Channels of the levels.
        layers: Residual blocks and attentions per level.
        head_width: Channels of one attention head.
        halvings: Number of levels that end with half the sides.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        widths: Sequence[int],
        layers: int,
        head_width: int,
        halvings: int,
    ) -> None:
        super().__init__()
        # Imported late, as it takes seconds and the help does not need it.
        from diffusers.models.embeddings import TimestepEmbedding, Timesteps
        from diffusers.models.unets.unet_2d_blocks import AttnDownBlock2D, UNetMidBlock2D

        embedding = 2 * widths[0]
        common = {
            "temb_channels": embedding,
            "resnet_eps": _EPS,
            "resnet_act_fn": "silu",
            "resnet_groups": _GROUPS,
            "attention_head_dim": head_width,
        }
        self.time_proj = Timesteps(widths[0], flip_sin_to_cos=True, downscale_freq_shift=0)
        self.time_embedding = TimestepEmbedding(widths[0], embedding)
        self.conv_in = conv3x3(inputs, widths[0])
        self.down_blocks = nn.ModuleList()
        for level, width in enumerate(widths):
            block = AttnDownBlock2D(
                in_channels=widths[max(level - 1, 0)],
                out_channels=width,
                num_layers=layers,
                downsample_padding=0,  # diffusers then pads only right and below, as released
                downsample_type="conv" if level < halvings else None,
                **common,
            )
            self.down_blocks.append(block)
        self.mid_block = UNetMidBlock2D(in_channels=widths[-1], **common)
        self.conv_norm_out = nn.GroupNorm(_GROUPS, widths[-1], eps=_EPS)
        self.conv_out = conv3x3(widths[-1], outputs)

    def forward(self, x: Tensor, t: Tensor | float, run: Callable[..., Any]) -> Tensor:
        """Map (B, inputs, h, w) and timesteps to (B, outputs, h / 2^halvings, ...).

        Args:
            x: The images.
            t: Their timesteps.
            run: Calls a block, such as ``Running.run_block``.
        """
        embedded = embedded_time(self, t, x)
        x = self.conv_in(x)
        for block in self.down_blocks:
            x = run(block, x, embedded)[0]
        x = run(self.mid_block, x, embedded)
        return self.conv_out(functional.silu(self.conv_norm_out(x)))


def lr_side(patch: int | None, scale: float) -> int:
    """Return the side in LR pixels that a predictor is trained for.

    Args:
        patch: As set; None for 512 pixels of the output, as released: 128 at scale 4.
        scale: Factor by which images are enlarged.
    """
    return round(OUTPUT / scale) if patch is None else patch
