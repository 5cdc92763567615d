"""CasArbi's denoiser: a U-Net whose features are modulated by coordinates at every level.

The idea is CasArbi's (arXiv 2506.07813): a Coordinate Adapter with Fourier features, the timestep,
and spatial feature transforms (SFT; Wang et al., 2018; arXiv 1804.02815). Its code and sizes are
not public. The U-Net follows SR3 (arXiv 2104.07636) and IDM (arXiv 2303.16491); the position of the
transforms is our choice.

d     offset from the nearest LR pixel; one LR pixel = 2
cell  side of a target pixel in the same unit
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from degradations.bicubic import centres
from degradations.device import copy_to
from files.batch import Box
from files.numbers import PositiveInt, UnitInterval
from lightning_modules.networks.running import Running
from lightning_modules.networks.swin_unet import sinusoids, zeroed
from lightning_modules.noise import Size

AdapterKind = Literal["fourier", "mlp", "none"]

# Factors of continuous numbers, so that numbers that differ by a hundredth of their range have
# different sinusoids.
_SCALE_UNIT, _NOISE_UNIT = 100.0, 1000.0
_NUDGE = 1e-6  # LR pixels; decides ties
_REDUCED = 16  # channels of the LR features beside the image


class SFTUNet(Running):
    """Predict a clean residual from a noisy one, the base's image and LR features.

    Args:
        features: Channels of the LR features; 0 for none.
        width: Channels of the first level.
        multipliers: Factors of ``width``, one per level; each level halves the sides, rounded up.
        blocks: Residual blocks per level, on the way down and on the way up.
        attention: Whether the smallest level has attention among all pixels.
        adapter: How coordinates are used: ``fourier`` features and convolutions, an ``mlp`` for
            each pixel, or ``none``.
        bands: Number of octaves of the Fourier features; frequencies above half the scale alias.
        dropout: Share of features to drop in training.
        patch: Side of the squares of pixels that become one position, with their values as
            channels. Above 1 for small trainings, which it makes about patch^2 times as fast.
    """

    draws = True  # dropout
    regions = ("Block", "Modulation")

    def __init__(
        self,
        features: int = 64,
        width: int = 64,
        multipliers: Sequence[int] = (1, 2, 4, 8),
        blocks: int = 2,
        attention: bool = True,
        adapter: AdapterKind = "fourier",
        bands: int = 4,
        dropout: UnitInterval = 0.0,
        patch: PositiveInt = 1,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        embedding = 4 * width
        self.width, self.patch = width, patch
        self.embeds = nn.ModuleDict(
            {name: nn.Linear(width, embedding) for name in ("time", "scale", "noise")}
        )
        self.mix = nn.Sequential(nn.SiLU(), nn.Linear(embedding, embedding), nn.SiLU())
        self.reduce = nn.Conv2d(features, _REDUCED, 1) if features else None
        inputs = 6 * patch**2 + (_REDUCED if features else 0)
        self.first = nn.Conv2d(inputs, width, 3, padding=1)
        widths = [width * factor for factor in multipliers]
        self.adapter = (
            None
            if adapter == "none"
            else Adapter(width, len(widths), embedding, adapter, bands, patch)
        )

        def block(before: int, after: int) -> Block:
            return Block(before, after, embedding, dropout)

        def modulation(channels: int) -> nn.Module:
            return nn.Identity() if adapter == "none" else Modulation(width, channels)

        self.down, self.up = nn.ModuleList(), nn.ModuleList()
        self.halve, self.grow = nn.ModuleList(), nn.ModuleList()
        self.modulate_down, self.modulate_up = nn.ModuleList(), nn.ModuleList()
        now = width
        for level, after in enumerate(widths):
            befores = [now] + [after] * (blocks - 1)
            self.down.append(nn.ModuleList([block(before, after) for before in befores]))
            self.modulate_down.append(modulation(after))
            last = level == len(widths) - 1
            self.halve.append(
                nn.Identity() if last else nn.Conv2d(after, after, 3, stride=2, padding=1)
            )
            now = after
        self.middle = nn.ModuleList([block(now, now), block(now, now)])
        self.attention = Attention(now) if attention else nn.Identity()
        for level, after in reversed(list(enumerate(widths))):
            befores = [now + after] + [after] * (blocks - 1)
            self.up.append(nn.ModuleList([block(before, after) for before in befores]))
            self.modulate_up.append(modulation(after))
            below = widths[level - 1] if level else after
            self.grow.append(nn.Conv2d(after, below, 3, padding=1) if level else nn.Identity())
            now = below
        to_pixels = zeroed(nn.Conv2d(now, 3 * patch**2, 3, padding=1))
        self.last = nn.Sequential(_norm(now), nn.SiLU(), to_pixels)
        self.prepare_to_run()

    def forward(
        self,
        x: Tensor,
        t: Tensor,
        base: Tensor,
        features: Tensor | None,
        lr_size: Size,
        noise_level: Tensor | None = None,
        boxes: Sequence[Box] | None = None,
    ) -> Tensor:
        """Return the residual, (B, 3, H, W).

        Args:
            x: (B, 3, H, W), the noisy residual, scaled to a deviation of about 1.
            t: (B,) timesteps.
            base: (B, 3, H, W), the base's image, in [-1, 1].
            features: (B, features, h, w) of the LR image, or None.
            lr_size: (h, w) of the stage's input.
            noise_level: (B,) standard deviation of the noise on the stage's input; 0 by default.
            boxes: B parts of the stage's input that x covers; by default all of it.

        Raises:
            ValueError: If the features are not as many as it was made for.
        """
        size = x.shape[-2], x.shape[-1]
        boxes = boxes or [((0.0, lr_size[0]), (0.0, lr_size[1]))]
        if len(set(boxes)) == 1:
            boxes = boxes[:1]
        embedded = self._embedded(t, size, boxes[0], noise_level, x.dtype)
        inputs = [_as_patches(x, self.patch), _as_patches(base, self.patch)]
        if self.reduce is not None:
            count = 0 if features is None else features.shape[1]
            if features is None or count != self.reduce.in_channels:
                raise ValueError(
                    f"SFTUNet was made for {self.reduce.in_channels} channels of LR features and "
                    f"got {count}: set its argument features to that"
                )
            inputs.append(_spread(self.reduce(features), boxes, size, self.patch))
        maps = self._maps(size, lr_size, boxes, embedded, x)
        x = self.first(torch.cat(inputs, 1))
        skips = []
        for blocks, modulate, halve, place in zip(
            self.down, self.modulate_down, self.halve, maps, strict=True
        ):
            x = self._through(blocks, x, embedded)
            x = x if place is None else self.run_block(modulate, x, place)
            skips.append(x)
            x = halve(x)
        x = self.run_block(self.middle[0], x, embedded)
        x = self.run_block(self.middle[1], self.run_block(self.attention, x), embedded)
        for blocks, modulate, grow, place in zip(
            self.up, self.modulate_up, self.grow, reversed(maps), strict=True
        ):
            skip = skips.pop()
            if x.shape[-2:] != skip.shape[-2:]:
                x = functional.interpolate(x, skip.shape[-2:], mode="nearest-exact")
            x = self._through(blocks, torch.cat([x, skip], 1), embedded)
            x = grow(x if place is None else self.run_block(modulate, x, place))
        return functional.pixel_shuffle(self.last(x), self.patch)[..., : size[0], : size[1]]

    def _embedded(
        self, t: Tensor, size: Size, box: Box, noise_level: Tensor | None, dtype: torch.dtype
    ) -> Tensor:
        (top, bottom), (left, right) = box
        octaves = math.log2(math.sqrt(size[0] * size[1] / ((bottom - top) * (right - left))))
        level = torch.zeros_like(t, dtype=torch.float32) if noise_level is None else noise_level
        values = {
            "time": t,
            "scale": torch.full_like(level, octaves * _SCALE_UNIT),
            "noise": level * _NOISE_UNIT,
        }
        parts = [
            self.embeds[name](sinusoids(value, self.width).to(dtype))
            for name, value in values.items()
        ]
        return self.mix(torch.stack(parts).sum(0))

    def _through(self, blocks: nn.Module, x: Tensor, embedded: Tensor) -> Tensor:
        for block in blocks.children():
            x = self.run_block(block, x, embedded)
        return x

    def _maps(
        self, size: Size, lr_size: Size, boxes: Sequence[Box], embedded: Tensor, x: Tensor
    ) -> list[Tensor | None]:
        if self.adapter is None:
            return [None] * len(self.down)
        place = coordinates(lr_size, size, boxes, x.device).to(x.dtype)
        return list(self.adapter(place, embedded))


class Adapter(nn.Module):
    """Make a map for each level from coordinates.

    Args:
        width: Channels of the maps.
        levels: Number of maps; each has half the sides of the one before, rounded up.
        embedding: Size of the embedded timestep.
        kind: ``fourier`` or ``mlp``.
        bands: Number of octaves of the Fourier features.
        patch: Side of the squares of pixels that are one position of the maps.
    """

    def __init__(
        self,
        width: int,
        levels: int,
        embedding: int,
        kind: AdapterKind,
        bands: int,
        patch: int = 1,
    ) -> None:
        super().__init__()
        self.bands = bands if kind == "fourier" else 0
        self.patch = patch
        side = 3 if kind == "fourier" else 1
        self.first = nn.Sequential(
            nn.Conv2d((4 + 4 * self.bands) * patch**2, width, side, padding=side // 2),
            nn.SiLU(),
            nn.Conv2d(width, width, side, padding=side // 2),
        )
        self.time = nn.Linear(embedding, width)
        self.halve = nn.ModuleList(
            [nn.Conv2d(width, width, 3, stride=2, padding=1) for _ in range(levels - 1)]
        )

    def forward(self, place: Tensor, embedded: Tensor) -> list[Tensor]:
        """Return maps (B, width, H / patch, W / patch), each half as large as the one before.

        Args:
            place: (1 or B, 4, H, W) from ``coordinates``.
            embedded: (B, E).
        """
        place = _as_patches(fourier(place, self.bands), self.patch)
        maps = [self.first(place) + self.time(embedded)[:, :, None, None]]
        for halve in self.halve:
            maps.append(halve(functional.silu(maps[-1])))
        return maps


class Modulation(nn.Module):
    """Scale and shift features by a map: x (1 + gamma) + beta. Without effect before training.

    Args:
        width: Channels of the map.
        channels: Channels of the features.
    """

    def __init__(self, width: int, channels: int) -> None:
        super().__init__()
        self.gamma = zeroed(nn.Conv2d(width, channels, 3, padding=1))
        self.beta = zeroed(nn.Conv2d(width, channels, 3, padding=1))

    def forward(self, x: Tensor, place: Tensor) -> Tensor:
        """Modulate x (B, channels, h, w) by the map ``place`` (B, width, h, w)."""
        place = functional.silu(place)
        return x * (1 + self.gamma(place)) + self.beta(place)


class Block(nn.Module):
    """Two convolutions around a scale and shift by the embedded numbers, and a shortcut.

    Args:
        inputs: Input channels.
        outputs: Output channels.
        embedding: Size of the embedded numbers.
        dropout: Share of features to drop in training.
    """

    def __init__(self, inputs: int, outputs: int, embedding: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.norm1, self.conv1 = _norm(inputs), nn.Conv2d(inputs, outputs, 3, padding=1)
        self.embed = nn.Linear(embedding, 2 * outputs)
        self.norm2, self.dropout = _norm(outputs), nn.Dropout(dropout)
        self.conv2 = zeroed(nn.Conv2d(outputs, outputs, 3, padding=1))
        self.shortcut = nn.Identity() if inputs == outputs else nn.Conv2d(inputs, outputs, 1)

    def forward(self, x: Tensor, embedded: Tensor) -> Tensor:
        """Map x (B, inputs, h, w) to (B, outputs, h, w), with embedded numbers (B, E)."""
        scale, shift = self.embed(embedded)[:, :, None, None].chunk(2, dim=1)
        h = self.norm2(self.conv1(functional.silu(self.norm1(x)))) * (1 + scale) + shift
        return self.shortcut(x) + self.conv2(self.dropout(functional.silu(h)))


class Attention(nn.Module):
    """Attention among all pixels, with one head; its time is quadratic in their number.

    Args:
        channels: Input and output channels.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm, self.qkv = _norm(channels), nn.Conv2d(channels, 3 * channels, 1)
        self.out = zeroed(nn.Conv2d(channels, channels, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, channels, h, w) to the same shape."""
        # Four dimensions, the last one dense; otherwise torch makes the matrix of all pairs.
        pixels = self.qkv(self.norm(x)).flatten(2).transpose(1, 2).contiguous().unsqueeze(1)
        seen = functional.scaled_dot_product_attention(*pixels.chunk(3, dim=3))
        return x + self.out(seen.squeeze(1).transpose(1, 2).reshape(x.shape))


def coordinates(lr_size: Size, size: Size, boxes: Sequence[Box], device: torch.device) -> Tensor:
    """Return (n, 4, H, W): d along rows and columns, then the cell, as in LIIF.

    Args:
        lr_size: (h, w) of the stage's input.
        size: (H, W) of the stage's output.
        boxes: n parts of the input that the output covers.
        device: Device of the result.
    """
    (h, w), (H, W) = lr_size, size
    maps = []
    for rows, columns in boxes:
        down, across = centres(H, *rows), centres(W, *columns)
        # From the pixel whose features are there.
        offsets = 2 * (down - 0.5 - nearest(down, h)), 2 * (across - 0.5 - nearest(across, w))
        axes = [copy_to(offset.float(), device) for offset in offsets]
        cells = 2 * (rows[1] - rows[0]) / H, 2 * (columns[1] - columns[0]) / W
        planes = [torch.full((H, W), cell, device=device) for cell in cells]
        maps.append(torch.stack([*torch.meshgrid(*axes, indexing="ij"), *planes]))
    return torch.stack(maps)


def nearest(places: Tensor, side: int) -> Tensor:
    """Return the pixel of each place, int64; halfway between two, as at x1.5, the second one."""
    return (places + _NUDGE).floor().clamp(0, side - 1).long()


def fourier(place: Tensor, bands: int) -> Tensor:
    """Return (1, 4 + 4 bands, H, W): coordinates, and sines and cosines of pi 2^band d.

    Args:
        place: (1, 4, H, W) from ``coordinates``.
        bands: Number of octaves.
    """
    angles = [place[:, :2] * (math.pi * 2**band) for band in range(bands)]
    return torch.cat([place, *(wave for a in angles for wave in (a.sin(), a.cos()))], dim=1)


def _spread(features: Tensor, boxes: Sequence[Box], size: Size, patch: int) -> Tensor:
    """Return features (B, C, h, w) at squares of ``patch`` output pixels of B parts, or of one.

    The last squares may reach beyond the border.
    """
    h, w = features.shape[-2:]
    spread = []
    parts = torch.split(features, len(features) // len(boxes))
    for image, (rows, columns) in zip(parts, boxes, strict=True):
        down = nearest(_squares(size[0], patch, *rows), h)
        across = nearest(_squares(size[1], patch, *columns), w)
        down = copy_to(down, image.device)
        across = copy_to(across, image.device)
        # The gradient of `index_select` is slower, and on a GPU its last bits vary.
        spread.append(image[:, :, down[:, None], across])
    return torch.cat(spread)


def _squares(count: int, patch: int, start: float, stop: float) -> Tensor:
    squares = -(-count // patch)
    return centres(squares, start, start + (stop - start) * squares * patch / count)


def _as_patches(x: Tensor, patch: int) -> Tensor:
    """Return (B, C patch^2, H / patch, W / patch), rounded up by repeating the border."""
    if patch == 1:
        return x
    below, right = -x.shape[-2] % patch, -x.shape[-1] % patch
    if below or right:
        x = functional.pad(x, (0, right, 0, below), mode="replicate")
    return functional.pixel_unshuffle(x, patch)


def _norm(channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(math.gcd(min(32, max(channels // 4, 1)), channels), channels)
