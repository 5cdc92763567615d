"""Self-Cascade's time-aware feature upsamplers, which make a U-Net's features larger.

Guo et al., ECCV 2024 (arXiv 2402.10491), equations 7 and 8: h' = h + phi_n(pivot's h, t). The paper
gives each phi_n one bilinear upsampling and two residual blocks that know t, and 0.002 M parameters
to all of them; its code, for SDXL, has 145 M. No layers of the small one are published: with the
widths of Stable Diffusion 2.1 (3,520 channels at four places) even a scale and a shift a channel
would be 7,040, so ``Shared`` has its weights in common for all channels of a place.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from functools import partial
from typing import ClassVar, Literal, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from lightning_modules.networks.layers import conv3x3, sinusoids, zeroed
from lightning_modules.noise import Size

Resize = Literal["bilinear", "nearest"]

WIDTH = 4  # channels within the blocks of `Shared`
TIME_WIDTH = 40  # channels of its embedding of the timestep, sines and cosines


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
        # torch's "nearest" is off by up to half a pixel at factors that are no whole number.
        self.mode = "nearest-exact" if resize == "nearest" else resize
        self.places = nn.ModuleDict()
        for name, width in places.widths.items():
            self.places[name] = self.phi(width, places.embedding)

    @abstractmethod
    def phi(self, width: int, embedding: int) -> nn.Module:
        """Return phi_n of one place, which ``forward`` calls with (features, resize, time).

        Args:
            width: Channels there.
            embedding: Channels of the U-Net's time embedding.
        """

    def forward(
        self, features: Mapping[str, Tensor], sizes: Mapping[str, Size], time: Tensor
    ) -> dict[str, Tensor]:
        """Return what is added at each place.

        Args:
            features: (B, C, h, w) of the pivot, by place.
            sizes: (H, W) that is wanted, by place.
            time: (B,) timesteps, or the U-Net's embedding, (B, E), where ``from_network``.

        Returns:
            (B, C, H, W) by place.
        """
        added = {}
        for name, phi in self.places.items():
            # By size, not by factor: sides of features are rounded if the U-Net halves odd sides.
            resize = partial(functional.interpolate, size=sizes[name], mode=self.mode)
            # In float32, although the U-Net may run in half precision.
            added[name] = phi(features[name].float(), resize, time)
        return added


class Shared(FeatureUpsampler):
    """One set of weights for all channels of a place; 1,932 parameters for four places.

    Two residual blocks process each channel separately, followed by a scalar that starts at 0:
    untrained, nothing is added.

    Args:
        places: Of the U-Net; given by the method.
        resize: How features are enlarged: ``bilinear``, or ``nearest``, as released.
    """

    def phi(self, width: int, embedding: int) -> nn.Module:
        """Return phi_n of one place: the same layers at any width."""
        return _Shared()


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
        """Return phi_n of one place, as wide as its features."""
        return _Full(width, embedding)


class _Shared(nn.Module):
    """phi_n of ``Shared``."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(_EachChannel() for _ in range(2))
        self.alpha = nn.Parameter(torch.zeros(()))

    def forward(self, h: Tensor, resize: Callable[[Tensor], Tensor], t: Tensor) -> Tensor:
        """Return what is added, (B, C, H, W), from the pivot's features h and timesteps t (B,)."""
        x = resize(h)
        # Checkpoints have sines first, then cosines; `sinusoids` has cosines first.
        tau = sinusoids(t, TIME_WIDTH).roll(TIME_WIDTH // 2, 1)
        for block in self.blocks:
            x = block(x, tau)
        return self.alpha * x


class _EachChannel(nn.Module):
    """x + conv2(SiLU(conv1(x) + W tau)), for each channel separately, with shared weights."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = conv3x3(1, WIDTH)
        self.time = nn.Linear(TIME_WIDTH, WIDTH)
        self.conv2 = zeroed(conv3x3(WIDTH, 1))

    def forward(self, x: Tensor, tau: Tensor) -> Tensor:
        """Refine features x (B, C, H, W), with embedded timesteps tau (B, TIME_WIDTH)."""
        # Shared weights are expanded to a depthwise convolution, for one inner channel after
        # another: with channels as images of a batch, a CPU takes four times as long.
        C = x.shape[1]
        time = self.time(tau) + cast(Tensor, self.conv1.bias)
        total = x + cast(Tensor, self.conv2.bias)
        for n in range(WIDTH):
            inward = self.conv1.weight[n : n + 1].expand(C, 1, 3, 3)
            outward = self.conv2.weight[:, n : n + 1].expand(C, 1, 3, 3)
            y = functional.conv2d(x, inward, padding=1, groups=C) + time[:, n, None, None, None]
            total = total + functional.conv2d(functional.silu(y), outward, padding=1, groups=C)
        return total


class _Full(nn.Module):
    """phi_n of ``Full``."""

    def __init__(self, width: int, embedding: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(_ReleasedBlock(width, embedding) for _ in range(2))

    def forward(self, h: Tensor, resize: Callable[[Tensor], Tensor], time: Tensor) -> Tensor:
        """Return what is added, (B, C, H, W); ``time`` is the U-Net's embedding, (B, E)."""
        first, second = self.blocks  # only the first one enlarges
        return second(first(h, time, resize), time, None)


class _ReleasedBlock(nn.Module):
    """A residual block of latent diffusion, which may enlarge inside."""

    def __init__(self, width: int, embedding: int) -> None:
        super().__init__()
        # At least two channels per group: with one, the norm would remove the time embedding.
        groups = math.gcd(32, width, width // 2)
        self.norm1 = nn.GroupNorm(groups, width)
        self.conv1 = conv3x3(width, width)
        self.time = nn.Linear(embedding, width)
        self.norm2 = nn.GroupNorm(groups, width)
        self.conv2 = zeroed(conv3x3(width, width))

    def forward(self, x: Tensor, time: Tensor, resize: Callable[[Tensor], Tensor] | None) -> Tensor:
        """Refine features x (B, C, h, w), enlarged by ``resize``, with the embedding (B, E)."""
        y = functional.silu(self.norm1(x))
        if resize is not None:
            x = resize(x)
            y = resize(y)
        y = self.conv1(y) + self.time(functional.silu(time.float()))[..., None, None]
        return x + self.conv2(functional.silu(self.norm2(y)))
