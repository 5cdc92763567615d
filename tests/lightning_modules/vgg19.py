"""A file of VGG19's layout, as torchvision publishes it, with small random numbers."""

from __future__ import annotations

import torch

VGG19 = ((2, 64), (2, 128), (4, 256), (4, 512), (4, 512))  # convolutions and width of each stage
NAME = "vgg19-dcbb9e9d.pth"


def save_vgg19(folder, layers=None):
    """Write the file; return where.

    Args:
        folder: Where to.
        layers: The only layers in it; by default all, and a classifier.
    """
    generator = torch.Generator().manual_seed(0)
    state, inputs, place = {}, 3, 0
    for stage, (count, width) in enumerate(VGG19, 1):
        for number in range(1, count + 1):
            if layers is None or f"conv{stage}_{number}" in layers:
                shape = (width, inputs, 3, 3)
                weight = torch.empty(shape).uniform_(-1, 1, generator=generator)
                state[f"features.{place}.weight"] = weight * (6 / (9 * inputs)) ** 0.5
                bias = torch.empty(width).uniform_(-0.1, 0.1, generator=generator)
                state[f"features.{place}.bias"] = bias
            inputs, place = width, place + 2
        place += 1
    if layers is None:
        for number, (of, to) in {0: (25088, 4096), 3: (4096, 4096), 6: (4096, 1000)}.items():
            zeros = torch.zeros(()).expand(to, of)  # the file holds one number
            state[f"classifier.{number}.weight"] = zeros
            state[f"classifier.{number}.bias"] = torch.zeros(to)
    path = folder / NAME
    torch.save(state, path)
    return path
