"""Infinity's transformer from its equations, on tensors of the released layout; one sample."""

from __future__ import annotations

import math

import torch
from torch.nn import functional


def layout(width, depth, chunks, bits, text_width, text_length):
    """Names and shapes of a released file."""
    hidden = round(4 * width / 256) * 256
    inner = depth // chunks
    heads = width // 32
    pool = text_width // 128
    shapes = {
        "cfg_uncond": (text_length, text_width),
        "pos_start": (1, 1, width),
        "lvl_embed.weight": (15, width),
        "text_norm.weight": (text_width,),
        "text_proj_for_sos.ca.mat_q": (1, pool, width // pool),
        "text_proj_for_sos.ca.mat_kv.weight": (2 * width, text_width),
        "text_proj_for_sos.ca.v_bias": (width,),
        "text_proj_for_sos.ca.zero_k_bias": (width,),
        "text_proj_for_sos.ca.proj.weight": (width, width),
        "text_proj_for_sos.ca.proj.bias": (width,),
        "text_proj_for_ca.0.weight": (width, text_width),
        "text_proj_for_ca.0.bias": (width,),
        "text_proj_for_ca.2.weight": (width, width),
        "text_proj_for_ca.2.bias": (width,),
        "word_embed.weight": (width, bits),
        "word_embed.bias": (width,),
        "shared_ada_lin.1.weight": (6 * width, width),
        "shared_ada_lin.1.bias": (6 * width,),
        "head_nm.ada_lin.1.weight": (2 * width, width),
        "head_nm.ada_lin.1.bias": (2 * width,),
        "head.weight": (2 * bits, width),
        "head.bias": (2 * bits,),
    }
    block = {
        "ada_gss": (1, 1, 6, width),
        "sa.mat_qkv.weight": (3 * width, width),
        "sa.q_bias": (width,),
        "sa.v_bias": (width,),
        "sa.zero_k_bias": (width,),
        "sa.proj.weight": (width, width),
        "sa.proj.bias": (width,),
        "sa.scale_mul_1H11": (1, heads, 1, 1),
        "ca.mat_q.weight": (width, width),
        "ca.mat_q.bias": (width,),
        "ca.mat_kv.weight": (2 * width, width),
        "ca.v_bias": (width,),
        "ca.zero_k_bias": (width,),
        "ca.proj.weight": (width, width),
        "ca.proj.bias": (width,),
        "ca_norm.weight": (width,),
        "ca_norm.bias": (width,),
        "ffn.fc1.weight": (hidden, width),
        "ffn.fc1.bias": (hidden,),
        "ffn.fc2.weight": (width, hidden),
        "ffn.fc2.bias": (width,),
    }
    for n in range(depth):
        place = f"block_chunks.{n // inner}.module.{n % inner}" if chunks > 1 else f"blocks.{n}"
        shapes |= {f"{place}.{name}": shape for name, shape in block.items()}
    return shapes


def random_weights(seed=0, **sizes):
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for name, shape in layout(**sizes).items():
        std = 0.3 if len(shape) == 1 or "ada_gss" in name else shape[-1] ** -0.5
        tensors[name] = std * torch.randn(shape, generator=generator)
        if name.endswith("zero_k_bias"):
            tensors[name].zero_()
        if name.endswith("scale_mul_1H11"):
            tensors[name].fill_(math.log(4)).add_(torch.rand(shape, generator=generator))
        if name == "text_norm.weight" or name.endswith("ca_norm.weight"):
            tensors[name] += 1
    return tensors


def plain_norm(x):
    return (x - x.mean(-1, keepdim=True)) / (x.var(-1, unbiased=False, keepdim=True) + 1e-6).sqrt()


def linear(x, sd, name):
    return x @ sd[f"{name}.weight"].T + sd[f"{name}.bias"]


def attend(q, k, v, heads, scale, allowed=None):
    q, k, v = (part.unflatten(-1, (heads, -1)).transpose(0, 1) for part in (q, k, v))
    weights = q @ k.transpose(1, 2) * scale
    if allowed is not None:
        weights = weights.masked_fill(~allowed, -math.inf)
    return (weights.softmax(-1) @ v).transpose(0, 1).flatten(1)


def turned(x, grids, full, heads):
    """(n, C): each head's channel pairs by angles of rows, then of columns."""
    d = x.shape[1] // heads
    out = x.clone().view(len(x), heads, d // 2, 2)
    row = 0
    for h, w in grids:
        for r in range(h):
            for c in range(w):
                for i in range(d // 2):
                    j = i % (d // 4)
                    place = round(r * full[0] / h) if i < d // 4 else round(c * full[1] / w)
                    angle = place * 10000 ** (-2 * j / (d / 2))
                    a, b = x.view(len(x), heads, d // 2, 2)[row, :, i].unbind(-1)
                    out[row, :, i, 0] = a * math.cos(angle) - b * math.sin(angle)
                    out[row, :, i, 1] = a * math.sin(angle) + b * math.cos(angle)
                row += 1
    return out.view(len(x), -1)


def logits(sd, inputs, grids, full, text, chunks):
    """(n, 2 bits) of all tokens; inputs (n - 1, bits); text (m, W), not padded."""
    width = sd["pos_start"].shape[-1]
    heads = width // 32
    t = text / (text.square().mean(-1, keepdim=True) + 1e-6).sqrt() * sd["text_norm.weight"]
    pool = "text_proj_for_sos.ca"
    kv = t @ sd[f"{pool}.mat_kv.weight"].T
    pool_heads = sd[f"{pool}.mat_q"].shape[1]
    q = sd[f"{pool}.mat_q"].flatten().view(1, -1)
    v = kv[:, width:] + sd[f"{pool}.v_bias"]
    pooled = attend(q, kv[:, :width], v, pool_heads, (width // pool_heads) ** -0.5)
    c = linear(pooled, sd, f"{pool}.proj")
    memory = functional.gelu(linear(t, sd, "text_proj_for_ca.0"), approximate="tanh")
    memory = linear(memory, sd, "text_proj_for_ca.2")
    shared = linear(functional.silu(c), sd, "shared_ada_lin.1").view(6, width)
    x = torch.cat([c + sd["pos_start"][0], linear(inputs, sd, "word_embed")])
    scale_of = torch.tensor([k for k, (h, w) in enumerate(grids) for _ in range(h * w)])
    x = x + sd["lvl_embed.weight"][scale_of]
    allowed = scale_of.view(-1, 1) >= scale_of
    depth = sum(name.endswith("ada_gss") for name in sd)
    for n in range(depth):
        inner = depth // chunks
        place = f"block_chunks.{n // inner}.module.{n % inner}" if chunks > 1 else f"blocks.{n}"
        b = {k.removeprefix(f"{place}."): v for k, v in sd.items() if k.startswith(f"{place}.")}
        g1, g2, s1, s2, h1, h2 = b["ada_gss"][0, 0] + shared
        q, k, v = ((plain_norm(x) * (1 + s1) + h1) @ b["sa.mat_qkv.weight"].T).chunk(3, -1)
        q = functional.normalize((q + b["sa.q_bias"]).unflatten(-1, (heads, -1)), dim=-1)
        k = functional.normalize(k.unflatten(-1, (heads, -1)), dim=-1)
        q = q * b["sa.scale_mul_1H11"].view(-1, 1).clamp(max=math.log(100)).exp()
        q = turned(q.flatten(1), grids, full, heads)
        k = turned(k.flatten(1), grids, full, heads)
        v = v + b["sa.v_bias"]
        x = x + linear(attend(q, k, v, heads, 1.0, allowed), b, "sa.proj") * g1
        h = plain_norm(x) * b["ca_norm.weight"] + b["ca_norm.bias"]
        k, v = (memory @ b["ca.mat_kv.weight"].T).chunk(2, -1)
        mixed = attend(linear(h, b, "ca.mat_q"), k, v + b["ca.v_bias"], heads, 32**-0.5)
        x = x + linear(mixed, b, "ca.proj")
        h = functional.gelu(linear(plain_norm(x) * (1 + s2) + h2, b, "ffn.fc1"), approximate="tanh")
        x = x + linear(h, b, "ffn.fc2") * g2
    s, t = linear(functional.silu(c), sd, "head_nm.ada_lin.1").chunk(2, -1)
    return linear(plain_norm(x) * (1 + s) + t, sd, "head")
