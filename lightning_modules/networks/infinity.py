"""Infinity's transformer.

Han et al., CVPR 2025 (arXiv 2412.04431). Tokens of one scale are predicted at once; they attend to
each other and to all coarser ones. NSARM (arXiv 2510.00820) fine-tunes the 8B model.

Queries and keys have unit length and a rotary embedding of the position in the image. Texts shift
and scale the input of each part.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from degradations.device import copy_to
from files.numbers import UnitInterval
from lightning_modules.networks.bsq import Scales
from lightning_modules.networks.running import Running
from lightning_modules.noise import Size

EPS = 1e-6
Spans = Sequence[tuple[int, int]]  # for each scale: number of tokens, end in the sequence

_UNDECAYED = ("no_text", "start", "own", "log_scale", "query")
_NORMS = (nn.LayerNorm, nn.RMSNorm, nn.GroupNorm, nn.Embedding)
# Released names, and ours.
_NAMES = (
    (r"^cfg_uncond$", "no_text"),
    (r"^pos_start$", "start"),
    (r"^lvl_embed\.", "level."),
    (r"^text_proj_for_sos\.ca\.mat_q$", "pool.query"),
    (r"^text_proj_for_sos\.ca\.", "pool."),
    (r"^text_proj_for_ca\.", "text_in."),
    (r"^word_embed\.", "tokens_in."),
    (r"^shared_ada_lin\.1\.", "shared."),
    (r"^head_nm\.ada_lin\.1\.", "head_norm."),
    (r"\.ada_gss$", ".own"),
    (r"\.sa\.", ".attention."),
    (r"\.ca_norm\.", ".cross_norm."),
    (r"\.ca\.", ".cross."),
    (r"\.ffn\.fc1\.", ".mlp.0."),
    (r"\.ffn\.fc2\.", ".mlp.2."),
    (r"\.scale_mul_1H11$", ".log_scale"),
    (r"\.mat_(qkv|kv|q)\.", r".\1."),
    (r"\.proj\.", ".out."),
)
_CHUNK = re.compile(r"^block_chunks\.(\d+)\.module\.(\d+)\.")
_DERIVED = re.compile(  # zeros, masks and lengths, which are computed here instead of loaded
    r"(^|\.)(zero_k_bias|lvl_1L|attn_bias_for_masking|Infinity_(in)?visible_\w+)$"
)


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
    image: dict[int, tuple[Tensor, Tensor]] = field(default_factory=dict)
    text: dict[int, tuple[Tensor, Tensor]] = field(default_factory=dict)

    def extended(self, block: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Append keys and values, and return those of all tokens.

        The transformer advances ``length``, when all blocks have appended theirs.

        Args:
            block: Number of the block.
            k: New keys, (B, heads, n, D).
            v: New values, as ``k``.
        """
        end = self.length + k.shape[2]
        if block not in self.image:
            # For all tokens at once: `torch.cat` would copy all previous ones at every scale.
            B, heads, _, D = k.shape
            shape = (B, heads, self.tokens, D)
            self.image[block] = k.new_empty(shape), v.new_empty(shape)
        keys, values = self.image[block]
        keys[:, :, self.length : end] = k
        values[:, :, self.length : end] = v
        return keys[:, :, :end], values[:, :, :end]


class Block(nn.Module):
    """Self-attention, cross-attention to texts, and an MLP.

    Args:
        width: C.
        heads: Heads of both attentions.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        # The block's own modulation, which is added to the text's: gates of self-attention and MLP,
        # then their scales and their shifts.
        self.own = nn.Parameter(torch.randn(1, 1, 6, width) / math.sqrt(width))
        with torch.no_grad():
            # As in Infinity's training: gates near 0 make the block start as the identity, and
            # small scales and shifts leave its normalised input as it is.
            self.own.mul_(torch.tensor([5e-6, 5e-6, 1e-3, 1e-3, 1e-3, 1e-3]).view(6, 1))
        self.attention = _SelfAttention(width, heads)
        self.cross_norm = nn.LayerNorm(width, EPS)
        self.cross = _CrossAttention(width, heads)
        hidden = round(4 * width / 256) * 256  # as in the released weights
        self.mlp = nn.Sequential(
            nn.Linear(width, hidden), nn.GELU("tanh"), nn.Linear(hidden, width)
        )

    def forward(
        self,
        x: Tensor,
        encoded: EncodedText,
        spans: Spans,
        rotary: Tensor,
        cache: Cache | None = None,
        number: int = 0,
        drop_path: Tensor | None = None,
    ) -> Tensor:
        """Process tokens of consecutive scales.

        Args:
            x: (B, n, C).
            encoded: Encoded texts.
            spans: Number of tokens of each scale, and where it ends.
            rotary: Result of ``rotary_embedding``.
            cache: Cache of previous scales.
            number: Number of this block, for the cache.
            drop_path: (2, B, 1, 1), factors of what self-attention and MLP add.
        """
        modulation = self.own + encoded.shared
        gate1, gate2, scale1, scale2, shift1, shift2 = modulation.unbind(2)
        h = (norm(x) * (1 + scale1) + shift1).to(x.dtype)
        added = self.attention(h, spans, rotary, cache, number) * gate1
        if drop_path is not None:
            added = added * drop_path[0]
        x = x + added.to(x.dtype)
        # Neither modulated nor gated: it gets the text itself.
        x = x + self.cross(self.cross_norm(x), encoded, cache, number)
        h = (norm(x) * (1 + scale2) + shift2).to(x.dtype)
        added = self.mlp(h) * gate2
        if drop_path is not None:
            added = added * drop_path[1]
        return x + added.to(x.dtype)


class _SelfAttention(nn.Module):
    """Attention of each scale to itself and all coarser ones."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        # As released, queries and values have a bias, and keys have none.
        self.q_bias = nn.Parameter(torch.zeros(width))
        self.v_bias = nn.Parameter(torch.zeros(width))
        # Queries and keys have unit length; this learned scale of each head replaces 1 / sqrt(D).
        self.log_scale = nn.Parameter(torch.full((1, heads, 1, 1), math.log(4)))
        self.out = nn.Linear(width, width)

    def forward(
        self, x: Tensor, spans: Spans, rotary: Tensor, cache: Cache | None, number: int
    ) -> Tensor:
        """Map tokens x (B, n, C) of consecutive scales to the same shape; see ``Block.forward``."""
        q, k, v = self.qkv(x).chunk(3, -1)
        # In the precision of the product: float32 biases would promote keys and values.
        q = split_heads(q + self.q_bias.to(q.dtype), self.heads)
        k = split_heads(k, self.heads)
        v = split_heads(v + self.v_bias.to(v.dtype), self.heads)
        scale = self.log_scale.float().clamp(max=math.log(100)).exp()  # at most 100
        q = apply_rotary_embedding(functional.normalize(q.float(), dim=-1) * scale, rotary)
        k = apply_rotary_embedding(functional.normalize(k.float(), dim=-1), rotary)
        q = q.to(v.dtype)
        k = k.to(v.dtype)
        if cache is not None:
            k, v = cache.extended(number, k, v)
        # Each scale attends to itself and previous ones: a block mask, without building it.
        outputs = []
        parts = torch.split(q, [count for count, _ in spans], 2)
        for part, (_, end) in zip(parts, spans, strict=True):
            outputs.append(  # queries are already scaled, hence 1.0
                functional.scaled_dot_product_attention(
                    part, k[:, :, :end], v[:, :, :end], scale=1.0
                )
            )
        return self.out(torch.cat(outputs, 2).transpose(1, 2).flatten(2))


class _CrossAttention(nn.Module):
    """Attention of image tokens to those of the text."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q = nn.Linear(width, width)
        self.kv = nn.Linear(width, 2 * width, bias=False)
        self.v_bias = nn.Parameter(torch.zeros(width))
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor, encoded: EncodedText, cache: Cache | None, number: int) -> Tensor:
        """Map tokens x (B, n, C) to the same shape; see ``Block.forward``."""
        if cache is not None and number in cache.text:
            k, v = cache.text[number]  # the text is the same for all scales
        else:
            k, v = self.kv(encoded.memory).chunk(2, -1)
            k = split_heads(k, self.heads)
            v = split_heads(v + self.v_bias.to(v.dtype), self.heads)
            if cache is not None:
                cache.text[number] = k, v
        q = split_heads(self.q(x), self.heads)
        values = functional.scaled_dot_product_attention(q, k, v, attn_mask=encoded.mask)
        return self.out(values.transpose(1, 2).flatten(2))


def split_heads(x: Tensor, heads: int) -> Tensor:
    """Reshape (B, n, C) to (B, heads, n, D)."""
    return x.view(*x.shape[:2], heads, -1).transpose(1, 2)


def norm(x: Tensor) -> Tensor:
    """Normalise (..., C) over channels without learned weights; the result is float32."""
    return functional.layer_norm(x.float(), x.shape[-1:], eps=EPS)


def rotary_embedding(
    scales: Scales, first: int, last: int, width: int, device: torch.device
) -> Tensor:
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
    H, W = cast(Size, scales.full)
    half = width // 2  # one half of the channels turns with the row, the other with the column
    frequencies = 10000.0 ** (-torch.arange(0, half, 2, dtype=torch.float32, device=device) / half)
    angles = []
    for h, w in scales.grids[first:last]:
        # Positions in the finest grid; halves are rounded to even, as in the released code.
        rows = (torch.arange(h, dtype=torch.float32, device=device) * (H / h)).round()
        columns = (torch.arange(w, dtype=torch.float32, device=device) * (W / w)).round()
        y = torch.outer(rows.repeat_interleave(w), frequencies)
        x = torch.outer(columns.repeat(h), frequencies)
        angles.append(torch.cat([y, x], 1))
    sequence = torch.cat(angles)
    return torch.stack([sequence.cos(), sequence.sin()])


def apply_rotary_embedding(x: Tensor, rotary: Tensor) -> Tensor:
    """Rotate each pair of neighbouring channels by an angle that depends on the position.

    Args:
        x: (B, heads, n, D).
        rotary: (2, n, D / 2), result of ``rotary_embedding``.

    Returns:
        (B, heads, n, D).
    """
    a, b = x.view(*x.shape[:-1], -1, 2).unbind(-1)
    cos, sin = rotary
    return torch.stack([a * cos - b * sin, a * sin + b * cos], -1).flatten(-2)


class Text(NamedTuple):
    """Features of captions.

    Args:
        features: (B, n, W), padded to the longest.
        lengths: (B,), how many rows of each count, at least 1.
    """

    features: Tensor
    lengths: Tensor


class InfinityTransformer(Running):
    """The transformer; by default the 8B model, 8,375.8 M parameters.

    It has no convolutions, so it takes no ``channels_last``. ``compile`` is for training: when
    sampling, each scale has another number of tokens, for which it would be compiled again.

    Args:
        bits: Bits per token.
        depth: Blocks; 32 for 2B.
        width: C, a multiple of four times the heads; 2048 for 2B.
        heads: Attention heads; 16 for 2B.
        text_width: Channels of text features, W; at least 128.
        text_length: Rows of the table for "no text".
        levels: Number of scales with an embedding.
        drop_path: Share of samples that skip the last block in training; less for earlier blocks.
    """

    regions = ("Block",)
    called = ("encode_text", "without_text")  # entry points besides `forward`, for sharding

    def __init__(
        self,
        bits: int = 56,
        depth: int = 40,
        width: int = 3584,
        heads: int = 28,
        text_width: int = 2048,
        text_length: int = 512,
        levels: int = 15,
        drop_path: UnitInterval = 0.1,
        **kwargs: Any,
    ) -> None:
        super().__init__(channels_last=False, **kwargs)
        self.bits = bits
        self.width = width
        self.heads = heads
        self.levels = levels
        pool_heads = text_width // (128 if width <= 4096 else 64)  # as released
        self.no_text = nn.Parameter(torch.empty(text_length, text_width))  # instead of a text
        self.text_norm = nn.RMSNorm(text_width, EPS)
        self.pool = _Pool(text_width, width, pool_heads)
        self.text_in = nn.Sequential(
            nn.Linear(text_width, width), nn.GELU("tanh"), nn.Linear(width, width)
        )
        self.shared = nn.Linear(width, 6 * width)  # from the text to the blocks' modulation
        self.start = nn.Parameter(torch.empty(1, 1, width))
        self.tokens_in = nn.Linear(bits, width)
        self.level = nn.Embedding(levels, width)
        self.drop_rates = [drop_path * i / max(depth - 1, 1) for i in range(depth)]  # by block
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(depth))
        self.head_norm = nn.Linear(width, 2 * width)
        self.head = nn.Linear(width, 2 * bits)  # two logits for each bit
        self._initialise()
        self.prepare_to_run()

    def _initialise(self) -> None:
        """Draw initial weights as in Infinity's training from scratch.

        Blocks start close to the identity.
        """
        std = math.sqrt(1 / (3 * self.width))
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                nn.init.trunc_normal_(module.weight, std=std)
            if isinstance(module, nn.Linear) and module.bias is not None:
                nn.init.zeros_(module.bias)
        nn.init.trunc_normal_(self.start, std=std)
        # torch truncates at 2 whatever the deviation, so this is drawn large, and divided below.
        nn.init.trunc_normal_(self.no_text, std=1.2)
        nn.init.trunc_normal_(self.pool.query, std=std)
        with torch.no_grad():
            self.no_text.div_(math.sqrt(self.no_text.shape[1]))
            self.head_norm.weight.mul_(1e-3)
            self.head.weight.mul_(0.02)
            # Else the sum of all branches would grow with the depth.
            divisor = math.sqrt(2 * len(self.blocks))
            for block in cast(Sequence[Block], self.blocks):
                block.attention.out.weight.div_(divisor)
                block.cross.out.weight.div_(divisor)
                cast(nn.Linear, block.mlp[2]).weight.div_(divisor)

    # --------------------------------------------------------------------------------------- texts

    def official(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Map the tensors of a released file; those of NSARM's other network are left out."""
        inner = {k: v for k, v in tensors.items() if not k.startswith("map_transformer.")}
        return from_official(inner, len(self.no_text))

    def without_text(self, text: Text, where: Tensor) -> Text:
        """Replace some texts by "no text" of the same length.

        Args:
            text: Texts.
            where: (B,), True for texts to replace.

        Raises:
            ValueError: If a text is longer than the table.
        """
        length = text.features.shape[1]
        if length > len(self.no_text):
            raise ValueError(
                f"texts have up to {length} tokens; expected at most {len(self.no_text)}: set the "
                "transformer's text_length, or the encoder's length"
            )
        features = text.features.to(self.no_text.dtype)  # cached features have half precision
        features = torch.where(where.view(-1, 1, 1), self.no_text[:length], features)
        return text._replace(features=features)

    def encode_text(self, text: Text) -> EncodedText:
        """Encode texts, once for all scales.

        Autocast is off, as in Infinity, since texts scale and shift each block.

        Args:
            text: Texts of the batch.
        """
        position = torch.arange(text.features.shape[1], device=text.lengths.device)
        mask = (position < text.lengths.view(-1, 1))[:, None, None]
        with torch.autocast(text.features.device.type, enabled=False):
            features = self.text_norm(text.features.to(self.text_norm.weight.dtype))
            pooled = self.pool(features, mask).float()
            shared = self.shared(functional.silu(pooled).to(self.shared.weight.dtype))
            shared = shared.view(len(features), 1, 6, self.width)
            return EncodedText(pooled, self.text_in(features), mask, shared)

    # ------------------------------------------------------------------------------------- network

    def forward(
        self,
        inputs: Tensor | None,
        scales: Scales,
        encoded: EncodedText,
        first: int = 0,
        cache: Cache | None = None,
    ) -> Tensor:
        """Return logits of the bits of one or more consecutive scales.

        With a cache of the previous scales, all scales at once, one by one, or in groups have the
        same logits.

        Args:
            inputs: (B, n, bits): at each token of these scales, the sum of the coarser codes. None
                for the first scale, whose token is the text's.
            scales: Scales of the image.
            encoded: Encoded texts.
            first: Number of the first of these scales, from 0.
            cache: Previous scales; required unless ``first`` is 0.

        Returns:
            (B, n, bits, 2) in float32, for 0 and 1.

        Raises:
            ValueError: If the tokens are not whole scales, or there are more than ``levels``.
        """
        tokens = self._tokens(inputs, encoded, is_first=first == 0)
        last = self._last_scale(scales, first, tokens.shape[1])
        x = self._with_levels(tokens, scales, first, last)
        head_width = self.width // self.heads
        rotary = rotary_embedding(scales, first, last, head_width, x.device)
        spans = [(span.stop - span.start, span.stop) for span in scales.spans[first:last]]
        if cache is None:
            for block, rate in zip(self.blocks, self.drop_rates, strict=True):
                drop_path = self._drop_path(rate, x)
                x = self.run_block(block, x, encoded, spans, rotary, drop_path=drop_path)
            return self._logits(x, encoded)
        # Uncompiled: each scale has another number of tokens, and would be compiled again.
        with torch.compiler.set_stance("force_eager") if self.compiled else nullcontext():
            for number, block in enumerate(self.blocks):
                x = block(x, encoded, spans, rotary, cache, number)
        cache.length = scales.spans[last - 1].stop
        return self._logits(x, encoded)

    def _drop_path(self, rate: float, x: Tensor) -> Tensor | None:
        """Draw a block's ``drop_path``: 0 for samples that skip a part, 1 / (1 - rate) for others.

        Drawn outside the blocks, which would otherwise be compiled once for each rate. For the same
        reason a block whose own rate is 0 gets factors, too.
        """
        if not self.training or not any(self.drop_rates):
            return None
        kept = 1 - rate
        factors = [torch.empty(len(x), 1, 1, device=x.device).bernoulli_(kept) for _ in range(2)]
        return torch.stack(factors) / kept

    def _tokens(self, inputs: Tensor | None, encoded: EncodedText, is_first: bool) -> Tensor:
        """Return tokens (B, n, C): the text's for the first scale, then those of the inputs."""
        dtype = self.tokens_in.weight.dtype
        parts = []
        if is_first:
            parts.append((encoded.pooled[:, None] + self.start).to(dtype))
        if inputs is not None:
            with torch.autocast(inputs.device.type, enabled=False):  # as in Infinity
                parts.append(self.tokens_in(inputs.to(dtype)))
        return torch.cat(parts, 1)

    def _last_scale(self, scales: Scales, first: int, count: int) -> int:
        """Return the end, exclusive, of the scales that have ``count`` tokens from ``first`` on."""
        start = scales.spans[first].start
        ends = [span.stop - start for span in scales.spans]
        last = ends.index(count, first) + 1
        if last > self.levels:
            raise ValueError(
                f"there are {len(scales)} scales, and the network knows {self.levels}: set "
                "model.init_args.transformer.init_args.levels, or fewer grids of the space"
            )
        return last

    def _with_levels(self, tokens: Tensor, scales: Scales, first: int, last: int) -> Tensor:
        """Add to each token the embedding of its scale's number."""
        device = tokens.device
        sizes = torch.tensor([h * w for h, w in scales.grids[first:last]])
        levels = torch.arange(first, last, device=device)
        # `output_size` is known here; without it, torch would wait for the GPU to count.
        levels = levels.repeat_interleave(copy_to(sizes, device), output_size=tokens.shape[1])
        return tokens + self.level(levels)

    def _logits(self, x: Tensor, encoded: EncodedText) -> Tensor:
        """Return logits (B, n, bits, 2) in float32; the text also scales and shifts their input."""
        with torch.autocast(x.device.type, enabled=False):  # as in Infinity
            dtype = self.head.weight.dtype
            modulation = self.head_norm(functional.silu(encoded.pooled).to(dtype))[:, None]
            scale, shift = modulation.chunk(2, -1)
            logits: Tensor = self.head((norm(x) * (1 + scale) + shift).to(dtype)).float()
        return logits.view(*logits.shape[:2], self.bits, 2)


class _Pool(nn.Module):
    """Pool the tokens of a text into one vector, by attention with one learned query per head."""

    def __init__(self, text_width: int, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Parameter(torch.empty(1, heads, width // heads))
        self.kv = nn.Linear(text_width, 2 * width, bias=False)
        self.v_bias = nn.Parameter(torch.zeros(width))
        self.out = nn.Linear(width, width)

    def forward(self, features: Tensor, mask: Tensor) -> Tensor:
        """Map features of texts (B, n, W) to (B, C); the mask is that of ``EncodedText``."""
        k, v = self.kv(features).chunk(2, -1)
        k = split_heads(k, self.heads)
        v = split_heads(v + self.v_bias, self.heads)
        q = self.query[:, :, None].expand(len(features), -1, -1, -1).to(k.dtype)
        pooled = functional.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        return self.out(pooled.flatten(1))


def decay_groups(model: nn.Module) -> list[dict[str, Any]]:
    """Return trainable parameters in two groups, the second without weight decay.

    The second group has tables, gates, scales, norms and all one-dimensional parameters.

    Args:
        model: The model that contains the transformer.
    """
    decayed: dict[str, Any] = {"params": []}
    undecayed: dict[str, Any] = {"params": [], "weight_decay": 0.0}
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            if not parameter.requires_grad:
                continue
            if parameter.ndim <= 1 or name in _UNDECAYED or isinstance(module, _NORMS):
                undecayed["params"].append(parameter)
            else:
                decayed["params"].append(parameter)
    return [group for group in (decayed, undecayed) if group["params"]]


def from_official(tensors: Mapping[str, Tensor], text_length: int = 512) -> dict[str, Tensor]:
    """Map tensors of a released file to our names.

    Args:
        tensors: Tensors as in the file, with blocks in chunks or in one list.
        text_length: Rows of the table for "no text"; the file's is truncated, or padded with 0.
    """
    chunked = [match for name in tensors if (match := _CHUNK.match(name))]
    chunk_length = max((int(match[2]) + 1 for match in chunked), default=0)
    state = {}
    for name, tensor in tensors.items():
        if _DERIVED.search(name):
            continue
        if match := _CHUNK.match(name):
            number = int(match[1]) * chunk_length + int(match[2])
            name = f"blocks.{number}.{name[match.end() :]}"
        for pattern, replacement in _NAMES:
            name = re.sub(pattern, replacement, name)
        state[name] = tensor
    if "no_text" in state:
        table = state["no_text"][:text_length]
        state["no_text"] = functional.pad(table, (0, 0, 0, text_length - len(table)))
    return state
