"""The autoencoder of VQGAN in its released layout, from the paper's appendix and tensor names."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional


def norm(channels):
    return nn.GroupNorm(32, channels, eps=1e-6)


class ResnetBlock(nn.Module):
    def __init__(self, inputs, outputs):
        super().__init__()
        self.norm1 = norm(inputs)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, padding=1)
        self.norm2 = norm(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1)
        if inputs != outputs:
            self.nin_shortcut = nn.Conv2d(inputs, outputs, 1)

    def forward(self, x):
        h = self.conv1(functional.silu(self.norm1(x)))
        h = self.conv2(functional.silu(self.norm2(h)))
        return h + (self.nin_shortcut(x) if hasattr(self, "nin_shortcut") else x)


class Attention(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.norm = norm(channels)
        self.q = nn.Conv2d(channels, channels, 1)
        self.k = nn.Conv2d(channels, channels, 1)
        self.v = nn.Conv2d(channels, channels, 1)
        self.proj_out = nn.Conv2d(channels, channels, 1)

    def forward(self, x):
        h = self.norm(x)
        q = self.q(h).flatten(2)  # (B, C, HW)
        k = self.k(h).flatten(2)
        v = self.v(h).flatten(2)
        weights = torch.einsum("bci,bcj->bij", q, k).mul(x.shape[1] ** -0.5).softmax(-1)
        return x + self.proj_out(torch.einsum("bij,bcj->bci", weights, v).view_as(x))


class Resample(nn.Module):
    def __init__(self, channels, stride):
        super().__init__()
        self.stride = stride
        self.conv = nn.Conv2d(channels, channels, 3, stride, padding=1 if stride == 1 else 0)

    def forward(self, x):
        if self.stride == 2:
            return self.conv(functional.pad(x, (0, 1, 0, 1)))
        return self.conv(functional.interpolate(x, scale_factor=2.0, mode="nearest"))


def middle(channels):
    block = nn.Module()
    block.block_1 = ResnetBlock(channels, channels)
    block.attn_1 = Attention(channels)
    block.block_2 = ResnetBlock(channels, channels)
    return block


def through_middle(block, x):
    return block.block_2(block.attn_1(block.block_1(x)))


class Encoder(nn.Module):
    def __init__(self, channels, latent):
        super().__init__()
        self.conv_in = nn.Conv2d(3, channels[0], 3, padding=1)
        self.down = nn.ModuleList()
        for i, width in enumerate(channels):
            level = nn.Module()
            before = channels[max(i - 1, 0)]
            level.block = nn.ModuleList([ResnetBlock(before, width), ResnetBlock(width, width)])
            if i < len(channels) - 1:
                level.downsample = Resample(width, 2)
            self.down.append(level)
        self.mid = middle(channels[-1])
        self.norm_out = norm(channels[-1])
        self.conv_out = nn.Conv2d(channels[-1], latent, 3, padding=1)

    def forward(self, x):
        x = self.conv_in(x)
        for level in self.down:
            for block in level.block:
                x = block(x)
            x = level.downsample(x) if hasattr(level, "downsample") else x
        return self.conv_out(functional.silu(self.norm_out(through_middle(self.mid, x))))


class Decoder(nn.Module):
    def __init__(self, channels, latent):
        super().__init__()
        self.conv_in = nn.Conv2d(latent, channels[-1], 3, padding=1)
        self.mid = middle(channels[-1])
        self.up = nn.ModuleList()
        for i, width in enumerate(channels):
            level = nn.Module()
            before = channels[min(i + 1, len(channels) - 1)]
            level.block = nn.ModuleList(
                [ResnetBlock(before if k == 0 else width, width) for k in range(3)]
            )
            if i > 0:
                level.upsample = Resample(width, 1)
            self.up.append(level)
        self.norm_out = norm(channels[0])
        self.conv_out = nn.Conv2d(channels[0], 3, 3, padding=1)

    def forward(self, z):
        x = through_middle(self.mid, self.conv_in(z))
        for level in reversed(self.up):
            for block in level.block:
                x = block(x)
            x = level.upsample(x) if hasattr(level, "upsample") else x
        return self.conv_out(functional.silu(self.norm_out(x)))


class VQGAN(nn.Module):
    """Random weights in the released layout."""

    def __init__(self, channels, entries, latent):
        super().__init__()
        self.encoder = Encoder(channels, latent)
        self.decoder = Decoder(channels, latent)
        self.quantize = nn.Module()
        self.quantize.embedding = nn.Embedding(entries, latent)
        self.quant_conv = nn.Conv2d(latent, latent, 1)
        self.post_quant_conv = nn.Conv2d(latent, latent, 1)

    def encode(self, x):
        return self.quant_conv(self.encoder(x))

    def decode(self, z):
        rows = z.permute(0, 2, 3, 1)
        nearest = torch.cdist(rows.flatten(0, 2), self.quantize.embedding.weight).argmin(1)
        quantised = self.quantize.embedding(nearest).view_as(rows).permute(0, 3, 1, 2)
        return self.decoder(self.post_quant_conv(quantised))
