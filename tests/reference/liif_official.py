"""LIIF as its authors evaluate it, slow on purpose: what ours is compared with.

Written from the paper (Chen et al. 2021, arXiv 2012.09161) and a description of the released code:
every query gathers the 576 unfolded features of its cell with `grid_sample`, four times, and sends
580 numbers through the whole perceptron, 30,000 queries at a time, unfolding anew for each chunk.
Plain functions over a state dict with the released names, so that nothing is shared with ours.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

State = dict[str, Tensor]


def encode(state, lr):
    """Features (B, C, h, w) of lr (B, 3, h, w) in [-1, 1]: EDSR without mean shift and tail."""

    def conv(name, x):
        return functional.conv2d(x, state[f"{name}.weight"], state[f"{name}.bias"], padding=1)

    head = conv("encoder.head.0", lr)
    x, block = head, 0
    while f"encoder.body.{block}.body.0.weight" in state:
        inner = functional.relu(conv(f"encoder.body.{block}.body.0", x))
        x = x + conv(f"encoder.body.{block}.body.2", inner)
        block += 1
    return conv(f"encoder.body.{block}", x) + head


def cell_centres(height, width, dtype=torch.float32):
    """Centres (height * width, 2) of a grid's cells as (row, column) in [-1, 1]."""
    rows = -1 + (2 * torch.arange(height, dtype=dtype) + 1) / height
    columns = -1 + (2 * torch.arange(width, dtype=dtype) + 1) / width
    grid = torch.stack(torch.meshgrid(rows, columns, indexing="ij"), dim=-1)
    return grid.view(-1, 2)


def perceptron(state, x):
    last = max(int(name.split(".")[2]) for name in state if name.startswith("imnet.layers."))
    for layer in range(0, last + 1, 2):
        x = functional.linear(
            x, state[f"imnet.layers.{layer}.weight"], state[f"imnet.layers.{layer}.bias"]
        )
        if layer < last:
            x = functional.relu(x)
    return x


def query(state, features, coord, cell):
    """Values (B, Q, 3) in [-1, 1] at coord (B, Q, 2), for pixels of size cell (B, Q, 2)."""
    batch, channels, height, width = features.shape
    features = functional.unfold(features, 3, padding=1).view(batch, channels * 9, height, width)
    centres = cell_centres(height, width, coord.dtype).view(height, width, 2).permute(2, 0, 1)
    centres = centres.unsqueeze(0).expand(batch, 2, height, width)
    size = coord.new_tensor([height, width])

    values, areas = [], []
    for sign_row in (-1, 1):
        for sign_column in (-1, 1):
            point = coord + coord.new_tensor([sign_row / height, sign_column / width]) + 1e-6
            point = point.clamp(-1 + 1e-6, 1 - 1e-6).flip(-1).unsqueeze(1)
            picked = functional.grid_sample(features, point, mode="nearest", align_corners=False)
            centre = functional.grid_sample(centres, point, mode="nearest", align_corners=False)
            offset = (coord - centre[:, :, 0].permute(0, 2, 1)) * size
            inputs = [picked[:, :, 0].permute(0, 2, 1), offset, cell * size]
            rows = torch.cat(inputs, dim=-1).view(batch * coord.shape[1], -1)
            values.append(perceptron(state, rows).view(batch, coord.shape[1], -1))
            areas.append((offset[..., 0] * offset[..., 1]).abs() + 1e-9)

    total = torch.stack(areas).sum(dim=0)
    opposite = areas[::-1]  # the order of the shifts makes the diagonal corner the reversed list
    weighted = [v * (a / total).unsqueeze(-1) for v, a in zip(values, opposite, strict=True)]
    return torch.stack(weighted).sum(dim=0)
