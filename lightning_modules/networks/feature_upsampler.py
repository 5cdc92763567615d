"""Self-Cascade's time-aware feature upsamplers, which make a U-Net's features larger.

Guo et al., ECCV 2024 (arXiv 2402.10491), equations 7 and 8: h' = h + phi_n(pivot's h, t). The paper
gives each phi_n one bilinear upsampling and two residual blocks that know t, and 0.002 M parameters
to all of them; its code, for SDXL, has 145 M. No layers of the small one are published: with the
widths of Stable Diffusion 2.1 (3,520 channels at four places) even a scale and a shift a channel
would be 7,040, so `Shared` has its weights in common for all channels of a place.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import ClassVar, Literal, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from files.numbers import PositiveInt
from lightning_modules.networks.swin_unet import sinusoids, zeroed
from lightning_modules.noise import Size

Resize = Literal["bilinear", "nearest"]


class Places(NamedTuple):
    """Where features of a U-Net are read, and added to.

    Args:
        widths: Channels at each place, by its name.
        embedding: Channels of the U-Net's time embedding.
    """

    widths: Mapping[str, int]
    embedding: int


class FeatureUpsampler(nn.Module, ABC):
    """Base of the upsamplers, Phi: one phi_n a place, named after it in a checkpoint.

    Args:
        places: Of the U-Net.
        resize: How features are enlarged: ``bilinear``, or ``nearest``, as released.
    """

    from_network: ClassVar[bool] = False
    """Whether ``time`` is the U-Net's own embedding of timestep and conditions."""

    def __init__(self, places: Places, resize: Resize = "bilinear") -> None:
        super().__init__()
        self.mode = "nearest-exact" if resize == "nearest" else resize
        self.places = nn.ModuleDict()
        for name, width in places.widths.items():
            self.places[name] = self.phi(width, places.embedding)

    @abstractmethod
    def phi(self, width: int, embedding: int) -> nn.Module:
        """The one of a place, a function of (features, resize, time).

        Args:
            width: Channels there.
            embedding: Channels of the U-Net's time embedding.
        """

    def forward(
        self, features: Mapping[str, Tensor], sizes: Mapping[str, Size], time: Tensor
    ) -> dict[str, Tensor]:
        """What is added at each place.

        Args:
            features: (B, C, h, w) of the pivot, by place.
            sizes: (H, W) that is wanted, by place.
            time: (B,) timesteps, or the U-Net's embedding, (B, E), where ``from_network``.

        Returns:
            (B, C, H, W) by place.
        """
        return {
            name: phi(features[name].float(), self._to(sizes[name]), time)
            for name, phi in self.places.items()
        }

    def _to(self, size: Size) -> Callable[[Tensor], Tensor]:
        # By size, not by factor: sides of features are rounded if the U-Net halves odd sides.
        corners = None if self.mode == "nearest-exact" else False
        return lambda x: functional.interpolate(x, size, mode=self.mode, align_corners=corners)


class Shared(FeatureUpsampler):
    """One set of weights for all channels of a place; 1,932 parameters for four places.

    Two residual blocks process each channel separately, followed by a scalar that starts at 0:
    untrained, nothing is added.

    Args:
        places: Of the U-Net; given by the method.
        width: Channels within the blocks.
        time_width: Channels of the embedding of the timestep, sines and cosines.
        resize: How features are enlarged: ``bilinear``, or ``nearest``, as released.
    """

    def __init__(
        self,
        places: Places,
        width: PositiveInt = 4,
        time_width: PositiveInt = 40,
        resize: Resize = "bilinear",
    ) -> None:
        self.width, self.time_width = width, time_width
        super().__init__(places, resize)

    def phi(self, width: int, embedding: int) -> nn.Module:
        """As ``FeatureUpsampler.phi``."""
        return _Shared(self.width, self.time_width)


class Full(FeatureUpsampler):
    """The released layers, at full width: 145,457,280 parameters for SDXL.

    As released, the initial state adds something: its last convolutions are 0, so the pivot's
    features pass unchanged and are added.

    Args:
        places: Of the U-Net; given by the method.
        resize: How features are enlarged: ``bilinear``, or ``nearest``, as released.
    """

    from_network = True

    def phi(self, width: int, embedding: int) -> nn.Module:
        """As ``FeatureUpsampler.phi``."""
        return _Full(width, embedding)


class _Shared(nn.Module):
    def __init__(self, width: int, time_width: int) -> None:
        super().__init__()
        self.time_width = time_width
        self.blocks = nn.ModuleList(_EachChannel(width, time_width) for _ in range(2))
        self.alpha = nn.Parameter(torch.zeros(()))

    def forward(self, h: Tensor, resize: Callable[[Tensor], Tensor], t: Tensor) -> Tensor:
        # Sines, then cosines, as in checkpoints.
        x, tau = resize(h), sinusoids(t, self.time_width).roll(self.time_width // 2, 1)
        for block in self.blocks:
            x = block(x, tau)
        return self.alpha * x


class _EachChannel(nn.Module):
    """x + conv2(SiLU(conv1(x) + W tau)), for each channel separately, with shared weights."""

    def __init__(self, width: int, time_width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, width, 3, padding=1)
        self.time = nn.Linear(time_width, width)
        self.conv2 = zeroed(nn.Conv2d(width, 1, 3, padding=1))

    def forward(self, x: Tensor, tau: Tensor) -> Tensor:
        # Depthwise, one inner channel after another: with channels as images of a batch, a CPU
        # takes four times as long.
        C = x.shape[1]
        time = self.time(tau) + cast(Tensor, self.conv1.bias)
        total = x + cast(Tensor, self.conv2.bias)
        for n in range(time.shape[1]):
            inward, outward = (
                kernel.expand(C, 1, 3, 3)
                for kernel in (self.conv1.weight[n : n + 1], self.conv2.weight[:, n : n + 1])
            )
            y = functional.conv2d(x, inward, padding=1, groups=C) + time[:, n, None, None, None]
            total = total + functional.conv2d(functional.silu(y), outward, padding=1, groups=C)
        return total


class _Full(nn.Module):
    def __init__(self, width: int, embedding: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(_Released(width, embedding) for _ in range(2))

    def forward(self, h: Tensor, resize: Callable[[Tensor], Tensor], time: Tensor) -> Tensor:
        first, second = self.blocks
        return second(first(h, time, resize), time, None)


class _Released(nn.Module):
    """A residual block of latent diffusion, which may enlarge inside."""

    def __init__(self, width: int, embedding: int) -> None:
        super().__init__()
        # At least two channels per group: with one, the norm would remove the time embedding.
        groups = math.gcd(32, width, width // 2)
        self.norm1 = nn.GroupNorm(groups, width)
        self.conv1 = nn.Conv2d(width, width, 3, padding=1)
        self.time = nn.Linear(embedding, width)
        self.norm2 = nn.GroupNorm(groups, width)
        self.conv2 = zeroed(nn.Conv2d(width, width, 3, padding=1))

    def forward(self, x: Tensor, time: Tensor, resize: Callable[[Tensor], Tensor] | None) -> Tensor:
        y = functional.silu(self.norm1(x))
        if resize is not None:
            x, y = resize(x), resize(y)
        y = self.conv1(y) + self.time(functional.silu(time.float()))[..., None, None]
        return x + self.conv2(functional.silu(self.norm2(y)))
