"""A block of Infinity's transformer with attention to tokens and texts, and its cache.

Han et al., CVPR 2025 (arXiv 2412.04431). Queries and keys have unit length and a rotary embedding
of the position in the image; texts shift and scale the input of each part.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn import functional
from torchvision.ops import StochasticDepth

from lightning_modules.networks.scales import Scales, Size

EPS = 1e-6
Spans = Sequence[tuple[int, int]]  # tokens of each scale, and where it ends in the sequence


class EncodedText(NamedTuple):
    """Encoded texts, shared by all scales.

    Args:
        pooled: (B, C) in float32: the first token, and the modulation of the head.
        memory: (B, n, C), attended to by every block.
        mask: (B, 1, 1, n), True for tokens that may be attended to.
        shared: (B, 1, 6, C): gates, scales and shifts of all blocks.
    """

    pooled: Tensor
    memory: Tensor
    mask: Tensor
    shared: Tensor


@dataclass
class Cache:
    """Keys and values of previous tokens and of the texts, for each block.

    6.0 GB per sample in bfloat16 for 8B at 10,521 tokens.

    Args:
        tokens: Capacity.
    """

    tokens: int
    length: int = 0
    """Number of cached tokens."""
    own: dict[int, tuple[Tensor, Tensor]] = field(default_factory=dict)
    text: dict[int, tuple[Tensor, Tensor]] = field(default_factory=dict)

    def extended(self, block: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Append keys and values, and return those of all tokens.

        Args:
            block: Number of the block.
            k: New keys, (B, heads, n, D).
            v: New values, as ``k``.
        """
        end = self.length + k.shape[2]
        if block not in self.own:
            room = (*k.shape[:2], self.tokens, k.shape[3])
            self.own[block] = k.new_empty(room), v.new_empty(room)
        keys, values = self.own[block]
        keys[:, :, self.length : end], values[:, :, self.length : end] = k, v
        return keys[:, :, :end], values[:, :, :end]


class Block(nn.Module):
    """Self-attention, cross-attention to texts, and an MLP.

    Args:
        width: C.
        heads: Heads of both attentions.
        drop_path: Share of samples that skip the block in training.
    """

    def __init__(self, width: int, heads: int, drop_path: float) -> None:
        super().__init__()
        self.own = nn.Parameter(torch.randn(1, 1, 6, width) / math.sqrt(width))
        with torch.no_grad():  # gates, scales, shifts, two of each
            self.own.mul_(torch.tensor([5e-6, 5e-6, 1e-3, 1e-3, 1e-3, 1e-3]).view(6, 1))
        self.attention = _SelfAttention(width, heads)
        self.cross_norm = nn.LayerNorm(width, EPS)
        self.cross = _CrossAttention(width, heads)
        hidden = round(4 * width / 256) * 256
        self.mlp = nn.Sequential(
            nn.Linear(width, hidden), nn.GELU("tanh"), nn.Linear(hidden, width)
        )
        self.drop = StochasticDepth(drop_path, "row")

    def forward(
        self,
        x: Tensor,
        encoded: EncodedText,
        spans: Spans,
        turn: Tensor,
        cache: Cache | None = None,
        number: int = 0,
    ) -> Tensor:
        """Process tokens of consecutive scales.

        Args:
            x: (B, n, C).
            encoded: Encoded texts.
            spans: Number of tokens of each scale, and where it ends.
            turn: Result of ``rotation``.
            cache: Cache of previous scales.
            number: Number of this block, for the cache.
        """
        gate1, gate2, scale1, scale2, shift1, shift2 = (self.own + encoded.shared).unbind(2)
        h = (norm(x) * (1 + scale1) + shift1).to(x.dtype)
        x = x + self.drop(self.attention(h, spans, turn, cache, number) * gate1).to(x.dtype)
        x = x + self.cross(self.cross_norm(x), encoded, cache, number)
        h = (norm(x) * (1 + scale2) + shift2).to(x.dtype)
        return x + self.drop(self.mlp(h) * gate2).to(x.dtype)


class _SelfAttention(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.q_bias, self.v_bias = (nn.Parameter(torch.zeros(width)) for _ in range(2))
        self.log_scale = nn.Parameter(torch.full((1, heads, 1, 1), math.log(4)))
        self.out = nn.Linear(width, width)

    def forward(
        self,
        x: Tensor,
        spans: Spans,
        turn: Tensor,
        cache: Cache | None,
        number: int,
    ) -> Tensor:
        q, k, v = self.qkv(x).chunk(3, -1)
        # In the precision of the product: float32 biases would promote keys and values.
        q, v = q + self.q_bias.to(q.dtype), v + self.v_bias.to(v.dtype)
        q, k, v = (split_heads(part, self.heads) for part in (q, k, v))
        scale = self.log_scale.float().clamp(max=math.log(100)).exp()
        q = rotated(functional.normalize(q.float(), dim=-1) * scale, turn).to(v.dtype)
        k = rotated(functional.normalize(k.float(), dim=-1), turn).to(v.dtype)
        if cache is not None:
            k, v = cache.extended(number, k, v)
        # Each scale attends to itself and previous ones: a block mask, without building it.
        parts = torch.split(q, [count for count, _ in spans], 2)
        found = [
            functional.scaled_dot_product_attention(
                *(part, k[:, :, :end], v[:, :, :end]), scale=1.0
            )
            for part, (_, end) in zip(parts, spans, strict=True)
        ]
        out: Tensor = self.out(torch.cat(found, 2).transpose(1, 2).flatten(2))
        return out


class _CrossAttention(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q = nn.Linear(width, width)
        self.kv = nn.Linear(width, 2 * width, bias=False)
        self.v_bias = nn.Parameter(torch.zeros(width))
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor, encoded: EncodedText, cache: Cache | None, number: int) -> Tensor:
        kept = None if cache is None else cache.text.get(number)
        if kept is None:
            k, v = self.kv(encoded.memory).chunk(2, -1)
            v = v + self.v_bias.to(v.dtype)
            kept = split_heads(k, self.heads), split_heads(v, self.heads)
            if cache is not None:
                cache.text[number] = kept
        q = split_heads(self.q(x), self.heads)
        found = functional.scaled_dot_product_attention(q, *kept, attn_mask=encoded.mask)
        out: Tensor = self.out(found.transpose(1, 2).flatten(2))
        return out


def split_heads(x: Tensor, heads: int) -> Tensor:
    """Reshape (B, n, C) to (B, heads, n, D)."""
    return x.view(*x.shape[:2], heads, -1).transpose(1, 2)


def norm(x: Tensor) -> Tensor:
    """Normalise over channels, in float32, without weights."""
    return functional.layer_norm(x.float(), x.shape[-1:], eps=EPS)


def rotation(scales: Scales, first: int, last: int, width: int, device: torch.device) -> Tensor:
    """Return the rotary embedding, by the position of a token in the finest grid.

    Args:
        scales: Scales of the image; each spans all of ``full``.
        first: Number of the first scale, from 0.
        last: Number after the last scale.
        width: Channels of a head, D.
        device: Device of the result.

    Returns:
        (2, n, D / 2), cosines and sines: of rows, then of columns.
    """
    return _rotation(tuple(scales.grids[first:last]), cast(Size, scales.full), width, device)


@lru_cache(maxsize=64)  # used at every step, and for every scale of every image
def _rotation(grids: tuple[Size, ...], full: Size, width: int, device: torch.device) -> Tensor:
    real: dict[str, Any] = {"dtype": torch.float32, "device": "cpu"}
    with torch.inference_mode(False):  # the next caller may be training
        theta = 10000.0 ** (-torch.arange(0, width // 2, 2, **real) / (width // 2))
        angles = []
        for h, w in grids:
            # Half to even, as in the released code.
            y = (torch.arange(h, **real) * (full[0] / h)).round().repeat_interleave(w)
            x = (torch.arange(w, **real) * (full[1] / w)).round().repeat(h)
            angles.append(torch.cat([torch.outer(y, theta), torch.outer(x, theta)], 1))
        whole = torch.cat(angles).to(device)
        return torch.stack([whole.cos(), whole.sin()])


def rotated(x: Tensor, turn: Tensor) -> Tensor:
    """Rotate neighbouring pairs of channels.

    Args:
        x: (B, heads, n, D).
        turn: (2, n, D / 2), result of ``rotation``.

    Returns:
        (B, heads, n, D).
    """
    a, b = x.view(*x.shape[:-1], -1, 2).unbind(-1)
    cos, sin = turn
    return torch.stack([a * cos - b * sin, a * sin + b * cos], -1).flatten(-2)
