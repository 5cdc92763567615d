"""Swin blocks as ResShift has them: attention within windows that are shifted every other time.

Liu et al., ICCV 2021 (arXiv 2103.14030); between convolutions, and with GroupNorm.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

Mask = Literal["correct", "released"]

_APART = -100.0  # added to the logits of positions that must not see each other
_GROUPS = 32


class Projection(nn.Module):
    """A convolution of one pixel.

    Args:
        inputs: Channels in.
        outputs: Channels out.
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(inputs, outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, h, w) to (B, outputs, h, w)."""
        return self.proj(x)


class SwinLayer(nn.Module):
    """Two Swin blocks between two projections, the second one shifted; nothing goes around them.

    Args:
        channels: In and out.
        width: Between the projections.
        heads: Of the attention.
        window: Side of the windows.
        resolution: Side of its input in training.
        mask: As ``SwinUNet`` of ``networks.swin_unet``.
    """

    def __init__(
        self, channels: int, width: int, heads: int, window: int, resolution: int, mask: Mask
    ) -> None:
        super().__init__()
        self.patch_embed = Projection(channels, width)
        shift = window // 2 if resolution > window else 0
        self.blocks = nn.Sequential(
            SwinBlock(width, heads, window, 0, mask), SwinBlock(width, heads, window, shift, mask)
        )
        self.patch_unembed = Projection(width, channels)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, h, w), sides divisible by the window."""
        return self.patch_unembed(self.blocks(self.patch_embed(x)))


class SwinBlock(nn.Module):
    """Attention within windows, then an MLP, each added to its input. Args as ``SwinLayer``.

    Args:
        width: Channels.
        heads: Of the attention.
        window: Side of the windows.
        shift: By how much they are shifted, both ways.
        mask: As ``SwinUNet``.
    """

    def __init__(self, width: int, heads: int, window: int, shift: int, mask: Mask) -> None:
        super().__init__()
        self.window, self.shift, self.mask = window, shift, mask
        self.norm1, self.attn = group_norm(width), WindowAttention(width, heads, window)
        self.norm2, self.mlp = group_norm(width), MLP(width, 4 * width)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, h, w), sides divisible by the window."""
        y = self.norm1(x)
        h, w = y.shape[-2:]
        mask = None
        if self.shift:
            y = y.roll((-self.shift, -self.shift), (2, 3))
            make = wrap_mask if self.mask == "correct" else released_mask
            mask = make(h, w, self.window, self.shift).to(y.device, y.dtype)
        y = from_windows(self.attn(to_windows(y, self.window), mask), h, w, self.window)
        if self.shift:
            y = y.roll((self.shift, self.shift), (2, 3))
        x = x + y
        return x + self.mlp(self.norm2(x))


class WindowAttention(nn.Module):
    """Attention among the pixels of a window, with a learned bias for each relative position.

    Args:
        width: Channels.
        heads: They share the channels.
        window: Side of a window.
    """

    places: Tensor

    def __init__(self, width: int, heads: int, window: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.relative_position_bias_table = nn.Parameter(torch.zeros((2 * window - 1) ** 2, heads))
        nn.init.trunc_normal_(self.relative_position_bias_table, std=0.02)
        axis = torch.arange(window)
        row, column = axis.repeat_interleave(window), axis.repeat(window)
        rows = row[:, None] - row[None, :] + window - 1
        columns = column[:, None] - column[None, :] + window - 1
        places = rows * (2 * window - 1) + columns
        self.register_buffer("places", places, persistent=False)  # (N, N)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """(B, windows, N, C) to the same; ``mask`` is (windows, N, N), added to the logits."""
        B, windows, N, C = x.shape
        q, k, v = (
            self.qkv(x).view(B * windows, N, 3, self.heads, C // self.heads).permute(2, 0, 3, 1, 4)
        )
        bias = self.relative_position_bias_table[self.places].permute(2, 0, 1).to(q.dtype)
        if mask is not None:  # (windows, heads, N, N), for each image of the batch
            bias = (bias + mask[:, None].to(q.dtype)).repeat(B, 1, 1, 1)
        y = functional.scaled_dot_product_attention(q, k, v, attn_mask=bias)
        return self.proj(y.transpose(1, 2).reshape(B, windows, N, C))


class MLP(nn.Module):
    """Two convolutions of one pixel with a GELU between them.

    Args:
        width: Channels in and out.
        hidden: Channels between them.
    """

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Conv2d(width, hidden, 1), nn.Conv2d(hidden, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, h, w) to the same."""
        return self.fc2(functional.gelu(self.fc1(x)))


def to_windows(x: Tensor, window: int) -> Tensor:
    """(B, C, h, w) to (B, windows, window ** 2, C), row by row."""
    B, C, h, w = x.shape
    x = x.view(B, C, h // window, window, w // window, window)
    return x.permute(0, 2, 4, 3, 5, 1).reshape(B, -1, window**2, C)


def from_windows(x: Tensor, h: int, w: int, window: int) -> Tensor:
    """Back to (B, C, h, w)."""
    B, _, _, C = x.shape
    x = x.view(B, h // window, w // window, window, window, C)
    return x.permute(0, 5, 1, 3, 2, 4).reshape(B, C, h, w)


def wrap_mask(h: int, w: int, window: int, shift: int) -> Tensor:
    """(windows, N, N): 0 where two pixels are neighbours in the image too, -100 elsewhere."""

    def side(n: int) -> Tensor:  # whether a pixel has come round from the other end
        return (torch.arange(n) >= n - shift).float()

    kind = (2 * side(h)[:, None] + side(w)[None, :]).view(1, 1, h, w)
    kinds = to_windows(kind, window)[0, :, :, 0]
    return _APART * (kinds[:, :, None] != kinds[:, None, :]).float()


def released_mask(h: int, w: int, window: int, shift: int) -> Tensor:
    """(windows, N, N) as in ResShift's code: the last row of windows, apart by columns."""
    across = w // window
    mask = torch.zeros(h // window * across, window**2, window**2)
    left = (torch.arange(window) < window - shift).repeat(window)
    mask[-across:] = _APART * (left[:, None] != left[None, :]).float()
    return mask


def group_norm(channels: int) -> nn.GroupNorm:
    """32 groups, or the most that channels can be cut into."""
    return nn.GroupNorm(math.gcd(_GROUPS, channels), channels)
