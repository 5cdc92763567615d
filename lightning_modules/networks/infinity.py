"""Infinity's transformer: the bits of each scale from those of all scales before it.

Han et al., CVPR 2025 (arXiv 2412.04431). Tokens of one scale are predicted at once; they attend to
each other and to all coarser ones. NSARM (arXiv 2510.00820) tunes the one of 8B.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from lightning_modules.networks.infinity_block import (
    EPS,
    Block,
    Cache,
    EncodedText,
    norm,
    rotation,
    split_heads,
)
from lightning_modules.networks.scales import Scales


class Text(NamedTuple):
    """What an encoder of texts says of captions.

    Args:
        features: (B, n, W), padded to the longest.
        lengths: (B,), how many rows of each count, at least 1.
    """

    features: Tensor
    lengths: Tensor


class Mixture(NamedTuple):
    """Guidance within the network, for a batch whose second half is encoded something else.

    Args:
        after: The number of blocks after which the halves are mixed, and go on as one.
        weight: Of the first half; the second has one minus that.
    """

    after: int
    weight: float


class InfinityTransformer(nn.Module):
    """The transformer; by default that of 8B, 8,375.8 M parameters.

    Args:
        bits: Of a token.
        depth: Blocks; 32 for 2B.
        width: C; 2048 for 2B.
        heads: Of attention; 16 for 2B.
        text_width: Channels of the texts' features, W; at least 128.
        text_length: Rows of the table that stands for no text.
        levels: Scales for which there is an embedding.
        drop_path: Share of samples that pass the last block unchanged in training; less before it.
        checkpointing: Compute each block again in the backward pass, for memory.

    Raises:
        ValueError: The width is no multiple of the heads, or a head's of four; a rate is outside
            [0, 1), or the texts' features are too narrow.
    """

    called = ("encode_text", "without_text")  # beside `forward`, which sharding has to know

    def __init__(
        self,
        bits: int = 56,
        depth: int = 40,
        width: int = 3584,
        heads: int = 28,
        text_width: int = 2048,
        text_length: int = 512,
        levels: int = 15,
        drop_path: float = 0.1,
        checkpointing: bool = False,
    ) -> None:
        super().__init__()
        if width < 64 or width % (4 * heads):
            raise ValueError(
                f"width is {width} with {heads} heads; expected a multiple of four times the "
                "heads, 64 at least"
            )
        if not 0 <= drop_path < 1:
            raise ValueError(f"drop_path is {drop_path}; expected at least 0 and below 1")
        pool_heads = text_width // (128 if width <= 4096 else 64)
        if not pool_heads or width % pool_heads:
            raise ValueError(
                f"text_width is {text_width}, for {pool_heads} heads that pool a text into {width} "
                "channels; expected at least 128, and heads that divide the channels"
            )
        self.bits, self.width, self.heads, self.levels = bits, width, heads, levels
        self.checkpointing = checkpointing
        self.no_text = nn.Parameter(torch.empty(text_length, text_width))
        self.text_norm = nn.RMSNorm(text_width, EPS)
        self.pool = _Pool(text_width, width, pool_heads)
        self.text_in = nn.Sequential(
            nn.Linear(text_width, width), nn.GELU("tanh"), nn.Linear(width, width)
        )
        self.shared = nn.Linear(width, 6 * width)
        self.start = nn.Parameter(torch.empty(1, 1, width))
        self.tokens_in = nn.Linear(bits, width)
        self.level = nn.Embedding(levels, width)
        rates = [drop_path * i / max(depth - 1, 1) for i in range(depth)]
        self.blocks = nn.ModuleList(Block(width, heads, rate) for rate in rates)
        self.head_norm = nn.Linear(width, 2 * width)
        self.head = nn.Linear(width, 2 * bits)
        self._initialise()

    def _initialise(self) -> None:
        # As Infinity trains from scratch: blocks begin close to doing nothing.
        width, depth = self.width, len(self.blocks)
        std = math.sqrt(1 / (3 * width))
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                nn.init.trunc_normal_(module.weight, std=std)
                if isinstance(module, nn.Linear) and module.bias is not None:
                    nn.init.zeros_(module.bias)
        nn.init.trunc_normal_(self.start, std=std)
        wide = 1.2 / math.sqrt(self.no_text.shape[1])
        nn.init.trunc_normal_(self.no_text, std=wide)
        nn.init.trunc_normal_(self.pool.query, std=std)
        with torch.no_grad():
            self.head_norm.weight.mul_(1e-3)
            self.head.weight.mul_(0.02)
            for block in cast(Sequence[Block], self.blocks):
                for last in (block.attention.out, block.cross.out, block.mlp[2]):
                    cast(nn.Linear, last).weight.div_(math.sqrt(2 * depth))

    # --------------------------------------------------------------------------------------- texts

    def without_text(self, text: Text, where: Tensor) -> Text:
        """Texts, some of which are replaced by no text of the same length.

        Args:
            text: Any.
            where: (B,), true where it is to be replaced.

        Raises:
            ValueError: One of them is longer than the table.
        """
        n = text.features.shape[1]
        if n > len(self.no_text):
            raise ValueError(
                f"texts have up to {n} tokens; expected at most {len(self.no_text)}, as many as "
                "the network has for no text: set text_length in "
                "model.init_args.transformer.init_args to that, or the encoder's length to less"
            )
        features = text.features.to(self.no_text.dtype)  # cached ones have half precision
        none = self.no_text[:n]
        return text._replace(features=torch.where(where.view(-1, 1, 1), none, features))

    def encode_text(self, text: Text) -> EncodedText:
        """What all scales need of the texts, in the weights' precision also under autocast.

        So Infinity computes them: each block is scaled and shifted by them.

        Args:
            text: Of the batch.

        Raises:
            ValueError: The features have another width.
        """
        found, expected = text.features.shape[-1], self.no_text.shape[1]
        if found != expected:
            raise ValueError(
                f"features of texts have {found} channels; expected {expected}: take the encoder "
                "that the network was trained with"
            )
        mask = torch.arange(text.features.shape[1], device=text.lengths.device)
        mask = (mask < text.lengths.view(-1, 1))[:, None, None]
        with torch.autocast(text.features.device.type, enabled=False):
            t = self.text_norm(text.features.to(self.text_norm.weight.dtype))
            pooled = self.pool(t, mask).float()
            shared = self.shared(functional.silu(pooled).to(self.shared.weight.dtype))
            return EncodedText(pooled, self.text_in(t), mask, shared.view(len(t), 1, 6, self.width))

    # ------------------------------------------------------------------------------------- network

    def forward(
        self,
        inputs: Tensor | None,
        scales: Scales,
        encoded: EncodedText,
        first: int = 0,
        cache: Cache | None = None,
        mixture: Mixture | None = None,
    ) -> Tensor:
        """Logits of the bits of one or more scales in a row.

        With a cache, what was asked before is remembered: all scales at once, each by itself, or
        some together have the same logits.

        Args:
            inputs: (B, n, bits): at each token of these scales, the sum of the codes of the coarser
                ones. There are none for the first scale, whose token is the text's.
            scales: Of the image.
            encoded: Of the texts.
            first: Number of the first of these scales, from 0.
            cache: Holds the scales before; needed where there are some.
            mixture: Of the batch's halves.

        Returns:
            (B, n, bits, 2) in float32, for 0 and 1.

        Raises:
            ValueError: The tokens are not those of whole scales, or those before are not known.
        """
        x, last = self._sequence(inputs, scales, encoded, first)
        before = scales.spans[first].start
        if before != (0 if cache is None else cache.length):
            raise ValueError(
                f"scale {first} follows on {before} tokens, and "
                f"{0 if cache is None else cache.length} are known: give scales in their order, "
                "with the same cache"
            )
        head_width = self.width // self.heads
        turn = rotation(scales, first, last, head_width, x.device)
        spans = [(s.stop - s.start, s.stop) for s in scales.spans[first:last]]
        for number, block in enumerate(self.blocks):
            if mixture is not None and number == mixture.after:
                x = _mixed(x, mixture.weight)
            if self.checkpointing and self.training and cache is None:
                x = checkpoint(block, x, encoded, spans, turn, use_reentrant=False)
            else:
                x = block(x, encoded, spans, turn, cache, number)
        if mixture is not None and mixture.after == len(self.blocks):
            x = _mixed(x, mixture.weight)
        if cache is not None:
            cache.length = scales.spans[last - 1].stop
        return self._logits(x, encoded)

    def _sequence(
        self, inputs: Tensor | None, scales: Scales, encoded: EncodedText, first: int
    ) -> tuple[Tensor, int]:
        # Embedded tokens, and the number of the scale after their last.
        parts = [encoded.pooled[:, None] + self.start] if first == 0 else []
        if inputs is not None:
            with torch.autocast(inputs.device.type, enabled=False):  # as in Infinity
                parts.append(self.tokens_in(inputs.to(self.tokens_in.weight.dtype)))
        count = sum(part.shape[1] for part in parts)
        start = scales.spans[first].start
        ends = [span.stop - start for span in scales.spans]
        if count not in ends[first:]:
            raise ValueError(
                f"{count} tokens begin at scale {first} of {list(scales.grids)}; expected those of "
                f"whole scales, one of {ends[first:]}"
            )
        last = ends.index(count, first) + 1
        if last > self.levels:
            raise ValueError(
                f"there are {len(scales)} scales, and the network knows {self.levels}: set "
                "model.init_args.transformer.init_args.levels, or fewer grids of the space"
            )
        x = torch.cat([part.to(self.tokens_in.weight.dtype) for part in parts], 1)
        sizes = torch.tensor([h * w for h, w in scales.grids[first:last]], device=x.device)
        levels = torch.arange(first, last, device=x.device).repeat_interleave(
            sizes, output_size=x.shape[1]
        )
        return x + self.level(levels), last

    def _logits(self, x: Tensor, encoded: EncodedText) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):
            dtype = self.head.weight.dtype
            modulation = self.head_norm(functional.silu(encoded.pooled).to(dtype))[:, None]
            scale, shift = modulation.chunk(2, -1)
            logits: Tensor = self.head((norm(x) * (1 + scale) + shift).to(dtype)).float()
        return logits.view(*logits.shape[:2], self.bits, 2)


class _Pool(nn.Module):
    # One learned query a head.
    def __init__(self, text_width: int, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Parameter(torch.empty(1, heads, width // heads))
        self.kv = nn.Linear(text_width, 2 * width, bias=False)
        self.v_bias = nn.Parameter(torch.zeros(width))
        self.out = nn.Linear(width, width)

    def forward(self, t: Tensor, mask: Tensor) -> Tensor:
        k, v = self.kv(t).chunk(2, -1)
        k, v = split_heads(k, self.heads), split_heads(v + self.v_bias, self.heads)
        q = self.query[:, :, None].expand(len(t), -1, -1, -1).to(k.dtype)
        found = functional.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        out: Tensor = self.out(found.flatten(1))
        return out


def _mixed(x: Tensor, weight: float) -> Tensor:
    one, other = x.chunk(2)
    return (weight * one + (1 - weight) * other).repeat(2, 1, 1)


_UNDECAYED = ("no_text", "start", "own", "log_scale", "query")
_NORMS = (nn.LayerNorm, nn.RMSNorm, nn.GroupNorm, nn.Embedding)


def decay_groups(model: nn.Module) -> list[dict[str, Any]]:
    """Trainable parameters in two groups, of which the second one has no weight decay.

    Tables, gates and scales are in the second one, norms, and all that have one dimension.

    Args:
        model: That the transformer is a part of.
    """
    decayed, others = list[Tensor](), list[Tensor]()
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            if parameter.requires_grad:
                kept = parameter.ndim > 1 and name not in _UNDECAYED
                kept = kept and not isinstance(module, _NORMS)
                (decayed if kept else others).append(parameter)
    groups: list[dict[str, Any]] = [{"params": decayed}]
    groups.append({"params": others, "weight_decay": 0.0})
    return [group for group in groups if group["params"]]


# ------------------------------------------------------------------------------- released names

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
_LEFT = re.compile(  # zeros, masks and lengths, which are computed here
    r"(^|\.)(zero_k_bias|lvl_1L|attn_bias_for_masking|Infinity_(in)?visible_\w+)$"
)


def from_official(tensors: Mapping[str, Tensor], text_length: int = 512) -> dict[str, Tensor]:
    """Tensors of a released file by the names here.

    Args:
        tensors: As in the file, blocks in chunks or in a row.
        text_length: Rows of the table for no text; that of the file is cut, or filled with 0.
    """
    inner = 1 + max((int(m[2]) for name in tensors if (m := _CHUNK.match(name))), default=0)
    found = {}
    for name, tensor in tensors.items():
        if _LEFT.search(name):
            continue
        if match := _CHUNK.match(name):
            number = int(match[1]) * inner + int(match[2])
            name = f"blocks.{number}.{name[match.end() :]}"
        for pattern, replacement in _NAMES:
            name = re.sub(pattern, replacement, name)
        found[name] = tensor
    if "no_text" in found:
        table = found["no_text"][:text_length]
        found["no_text"] = functional.pad(table, (0, 0, 0, text_length - len(table)))
    return found
