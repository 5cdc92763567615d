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
from files.numbers import PositiveInt
from lightning_modules.networks.layers import conv3x3, sinusoids, zeroed
from lightning_modules.networks.running import Running
from lightning_modules.noise import Size

AdapterKind = Literal["fourier", "mlp", "none"]

BANDS = 4  # octaves of the Fourier features; frequencies above half the scale alias
# Factors of continuous numbers, so that numbers that differ by a hundredth of their range have
# different sinusoids.
_SCALE_UNIT = 100.0
_NOISE_UNIT = 1000.0
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
        patch: Side of the squares of pixels that become one position, with their values as
            channels. Above 1 for small trainings, which it makes about patch^2 times as fast.
    """

    regions = ("Block", "Modulation")

    def __init__(
        self,
        features: int = 64,
        width: int = 64,
        multipliers: Sequence[int] = (1, 2, 4, 8),
        blocks: int = 2,
        attention: bool = True,
        adapter: AdapterKind = "fourier",
        patch: PositiveInt = 1,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.width = width
        self.patch = patch
        embedding = 4 * width
        self.embeds = nn.ModuleDict()
        for name in ("time", "scale", "noise"):
            self.embeds[name] = nn.Linear(width, embedding)
        self.mix = nn.Sequential(nn.SiLU(), nn.Linear(embedding, embedding), nn.SiLU())
        inputs = 6 * patch**2  # the noisy residual and the base's image
        self.reduce = None
        if features:
            self.reduce = nn.Conv2d(features, _REDUCED, 1)
            inputs += _REDUCED
        self.first = conv3x3(inputs, width)
        widths = [width * factor for factor in multipliers]
        self.adapter = None
        if adapter != "none":
            self.adapter = Adapter(width, len(widths), embedding, adapter, patch)

        def residual_blocks(channels: int, after: int) -> nn.ModuleList:
            level = nn.ModuleList()
            for _ in range(blocks):
                level.append(Block(channels, after, embedding))
                channels = after
            return level

        def modulation(channels: int) -> nn.Module:
            return nn.Identity() if adapter == "none" else Modulation(width, channels)

        # Each list has one member per level; `halve` and `grow` end with one that does nothing.
        self.down = nn.ModuleList()
        self.up = nn.ModuleList()
        self.halve = nn.ModuleList()
        self.grow = nn.ModuleList()
        self.modulate_down = nn.ModuleList()
        self.modulate_up = nn.ModuleList()
        channels = width
        for level, after in enumerate(widths):
            self.down.append(residual_blocks(channels, after))
            self.modulate_down.append(modulation(after))
            if level < len(widths) - 1:
                self.halve.append(conv3x3(after, after, stride=2))
            channels = after
        self.halve.append(nn.Identity())
        self.middle = nn.ModuleList()
        for _ in range(2):
            self.middle.append(Block(channels, channels, embedding))
        self.attention = Attention(channels) if attention else nn.Identity()
        for level in reversed(range(len(widths))):
            after = widths[level]
            self.up.append(residual_blocks(channels + after, after))
            self.modulate_up.append(modulation(after))
            channels = widths[max(level - 1, 0)]
            if level > 0:
                self.grow.append(conv3x3(after, channels))
        self.grow.append(nn.Identity())
        to_pixels = zeroed(conv3x3(channels, 3 * patch**2))
        self.last = nn.Sequential(_norm(channels), nn.SiLU(), to_pixels)
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
            features: (B, features, h, w) of the LR image; unused if the network has none.
            lr_size: (h, w) of the stage's input.
            noise_level: (B,) standard deviation of the noise on the stage's input; 0 by default.
            boxes: B parts of the stage's input that x covers; by default all of it.
        """
        H, W = x.shape[-2:]
        boxes = boxes or [((0.0, lr_size[0]), (0.0, lr_size[1]))]
        if len(set(boxes)) == 1:
            boxes = boxes[:1]  # one set of coordinates for the whole batch
        # All boxes have the same scale.
        embedded = self._embedded(t, (H, W), boxes[0], noise_level, x.dtype)
        inputs = [_as_patches(x, self.patch), _as_patches(base, self.patch)]
        if self.reduce is not None:
            inputs.append(_nearest_features(self.reduce(features), boxes, (H, W), self.patch))
        maps: list[Tensor | None] = [None] * len(self.down)
        if self.adapter is not None:
            place = coordinates(lr_size, (H, W), boxes, x.device).to(x.dtype)
            maps = self.adapter(place, embedded)
        x = self.first(torch.cat(inputs, 1))
        skips = []
        for level, blocks in enumerate(self.down):
            x = self._level(blocks, self.modulate_down[level], x, embedded, maps[level])
            skips.append(x)
            x = self.halve[level](x)
        x = self.run_block(self.middle[0], x, embedded)
        x = self.run_block(self.attention, x)
        x = self.run_block(self.middle[1], x, embedded)
        for level, blocks in enumerate(self.up):
            skip = skips.pop()
            if x.shape[-2:] != skip.shape[-2:]:  # not twice the sides: halving rounded them up
                x = functional.interpolate(x, skip.shape[-2:], mode="nearest-exact")
            x = torch.cat([x, skip], 1)
            x = self._level(blocks, self.modulate_up[level], x, embedded, maps[-1 - level])
            x = self.grow[level](x)
        # Without what `_as_patches` added at the border.
        return functional.pixel_shuffle(self.last(x), self.patch)[..., :H, :W]

    def _embedded(
        self, t: Tensor, size: Size, box: Box, noise_level: Tensor | None, dtype: torch.dtype
    ) -> Tensor:
        """Return the sum of the embedded timestep, scale and noise level, (B, E)."""
        (top, bottom), (left, right) = box
        scale = math.sqrt(size[0] * size[1] / ((bottom - top) * (right - left)))
        if noise_level is None:
            noise_level = torch.zeros_like(t, dtype=torch.float32)
        numbers = {  # multiplied, so that near numbers have different sinusoids
            "time": t,
            "scale": torch.full_like(noise_level, math.log2(scale) * _SCALE_UNIT),
            "noise": noise_level * _NOISE_UNIT,
        }
        parts = [
            self.embeds[name](sinusoids(number, self.width).to(dtype))
            for name, number in numbers.items()
        ]
        return self.mix(torch.stack(parts).sum(0))

    def _level(
        self,
        blocks: nn.Module,
        modulate: nn.Module,
        x: Tensor,
        embedded: Tensor,
        place: Tensor | None,
    ) -> Tensor:
        """Run a level's blocks, then modulate by its map of coordinates, if there is one."""
        for block in blocks.children():
            x = self.run_block(block, x, embedded)
        return x if place is None else self.run_block(modulate, x, place)


class Adapter(nn.Module):
    """Make a map for each level from coordinates.

    Args:
        width: Channels of the maps.
        levels: Number of maps; each has half the sides of the one before, rounded up.
        embedding: Size of the embedded timestep.
        kind: ``fourier`` or ``mlp``.
        patch: Side of the squares of pixels that are one position of the maps.
    """

    def __init__(
        self, width: int, levels: int, embedding: int, kind: AdapterKind, patch: int = 1
    ) -> None:
        super().__init__()
        self.bands = BANDS if kind == "fourier" else 0
        self.patch = patch
        kernel = 3 if kind == "fourier" else 1
        # Two offsets and two sides of the cell; for each band a sine and a cosine of each offset.
        inputs = (4 + 4 * self.bands) * patch**2
        self.first = nn.Sequential(
            nn.Conv2d(inputs, width, kernel, padding=kernel // 2),
            nn.SiLU(),
            nn.Conv2d(width, width, kernel, padding=kernel // 2),
        )
        self.time = nn.Linear(embedding, width)
        self.halve = nn.ModuleList(conv3x3(width, width, stride=2) for _ in range(levels - 1))

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
    """Add normalised features, scaled and shifted by a map: x + gamma norm(x) + beta.

    SFT's x (1 + gamma) + beta would multiply the residual stream at each level, which nothing holds
    back, since norms hide its size: after 7,000 steps it reached 1e21, where what blocks add is
    lost in rounding, and bfloat16 soon overflowed. Without effect before training.

    Args:
        width: Channels of the map.
        channels: Channels of the features.
    """

    def __init__(self, width: int, channels: int) -> None:
        super().__init__()
        self.norm = _norm(channels)
        self.gamma = zeroed(conv3x3(width, channels))
        self.beta = zeroed(conv3x3(width, channels))

    def forward(self, x: Tensor, place: Tensor) -> Tensor:
        """Modulate x (B, channels, h, w) by the map ``place`` (B, width, h, w)."""
        place = functional.silu(place)
        return x + self.norm(x) * self.gamma(place) + self.beta(place)


class Block(nn.Module):
    """Two convolutions around a scale and shift by the embedded numbers, and a shortcut.

    Args:
        inputs: Input channels.
        outputs: Output channels.
        embedding: Size of the embedded numbers.
    """

    def __init__(self, inputs: int, outputs: int, embedding: int) -> None:
        super().__init__()
        self.norm1 = _norm(inputs)
        self.conv1 = conv3x3(inputs, outputs)
        self.embed = nn.Linear(embedding, 2 * outputs)
        self.norm2 = _norm(outputs)
        self.conv2 = zeroed(conv3x3(outputs, outputs))
        self.shortcut = nn.Identity() if inputs == outputs else nn.Conv2d(inputs, outputs, 1)

    def forward(self, x: Tensor, embedded: Tensor) -> Tensor:
        """Map x (B, inputs, h, w) to (B, outputs, h, w), with embedded numbers (B, E)."""
        scale, shift = self.embed(embedded)[:, :, None, None].chunk(2, dim=1)
        h = self.conv1(functional.silu(self.norm1(x)))
        h = self.norm2(h) * (1 + scale) + shift
        return self.shortcut(x) + self.conv2(functional.silu(h))


class Attention(nn.Module):
    """Attention among all pixels, with one head; its time is quadratic in their number.

    Args:
        channels: Input and output channels.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = _norm(channels)
        self.qkv = nn.Conv2d(channels, 3 * channels, 1)
        self.out = zeroed(nn.Conv2d(channels, channels, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, channels, h, w) to the same shape."""
        # Four dimensions, the last one dense; otherwise torch makes the matrix of all pairs.
        pixels = self.qkv(self.norm(x)).flatten(2).transpose(1, 2).contiguous().unsqueeze(1)
        q, k, v = pixels.chunk(3, dim=3)
        values = functional.scaled_dot_product_attention(q, k, v)
        return x + self.out(values.squeeze(1).transpose(1, 2).reshape(x.shape))


def coordinates(lr_size: Size, size: Size, boxes: Sequence[Box], device: torch.device) -> Tensor:
    """Return (n, 4, H, W): d along rows and columns, then the cell, as in LIIF.

    Args:
        lr_size: (h, w) of the stage's input.
        size: (H, W) of the stage's output.
        boxes: n parts of the input that the output covers.
        device: Device of the result.
    """
    maps = []
    for box in boxes:
        offsets = []
        cells = []
        for (start, stop), side, count in zip(box, lr_size, size, strict=True):
            places = centres(count, start, stop)
            # From the centre of the LR pixel whose features the point gets.
            offset = 2 * (places - 0.5 - nearest(places, side))
            offsets.append(copy_to(offset.float(), device))
            cells.append(torch.full(size, 2 * (stop - start) / count, device=device))
        maps.append(torch.stack([*torch.meshgrid(*offsets, indexing="ij"), *cells]))
    return torch.stack(maps)


def nearest(places: Tensor, side: int) -> Tensor:
    """Return the pixel of each place, int64; halfway between two, as at x1.5, the second one."""
    return (places + _NUDGE).floor().clamp(0, side - 1).long()


def fourier(place: Tensor, bands: int) -> Tensor:
    """Return (n, 4 + 4 bands, H, W): coordinates, and sines and cosines of pi 2^band d.

    Args:
        place: (n, 4, H, W) from ``coordinates``: d along rows and columns, then the cell.
        bands: Number of octaves.
    """
    parts = [place]
    for band in range(bands):
        angles = place[:, :2] * (math.pi * 2**band)
        parts += [angles.sin(), angles.cos()]
    return torch.cat(parts, dim=1)


def _nearest_features(features: Tensor, boxes: Sequence[Box], size: Size, patch: int) -> Tensor:
    """Return the features of the LR pixel at the centre of each square of output pixels.

    Args:
        features: (B, C, h, w) of LR.
        boxes: Parts of LR that the outputs cover: B, or one for all.
        size: (H, W) of the output.
        patch: Side of the squares in output pixels; the last ones may reach beyond the border.

    Returns:
        (B, C, H / patch, W / patch), rounded up.
    """
    h, w = features.shape[-2:]
    selected = []
    parts = torch.split(features, len(features) // len(boxes))
    for part, (rows, columns) in zip(parts, boxes, strict=True):
        row = copy_to(nearest(_square_centres(size[0], patch, *rows), h), part.device)
        column = copy_to(nearest(_square_centres(size[1], patch, *columns), w), part.device)
        # The gradient of `index_select` is slower, and on a GPU its last bits vary.
        selected.append(part[:, :, row[:, None], column])
    return torch.cat(selected)


def _square_centres(count: int, patch: int, start: float, stop: float) -> Tensor:
    """Return the centres of the squares along a side of ``count`` pixels, in LR pixels."""
    squares = -(-count // patch)
    return centres(squares, start, start + (stop - start) * squares * patch / count)


def _as_patches(x: Tensor, patch: int) -> Tensor:
    """Return (B, C patch^2, H / patch, W / patch), rounded up by repeating the border."""
    if patch == 1:
        return x
    below = -x.shape[-2] % patch
    right = -x.shape[-1] % patch
    if below or right:
        x = functional.pad(x, (0, right, 0, below), mode="replicate")
    return functional.pixel_unshuffle(x, patch)


def _norm(channels: int) -> nn.GroupNorm:
    """Create a GroupNorm of at most 32 groups, of four channels or more each."""
    groups = min(32, max(channels // 4, 1))
    return nn.GroupNorm(math.gcd(groups, channels), channels)
