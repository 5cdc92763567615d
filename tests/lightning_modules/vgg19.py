"""A file of VGG19's layout, as torchvision publishes it, with small random numbers."""

from __future__ import annotations

import torch
from torch import nn
from torchvision.models.vgg import cfgs, make_layers

NAME = "vgg19-dcbb9e9d.pth"
CLASSIFIER = {0: (4096, 25088), 3: (4096, 4096), 6: (1000, 4096)}


def save_vgg19(folder, layers=None):
    """Write the file; return where.

    Args:
        folder: Where to.
        layers: The only layers in it, such as `conv1_2`; by default all, and a classifier.
    """
    generator = torch.Generator().manual_seed(0)
    with torch.device("meta"):
        features = make_layers(cfgs["E"])
    state = {}
    stage = 1
    number = 0
    for place, layer in enumerate(features):
        if isinstance(layer, nn.MaxPool2d):
            stage += 1
            number = 0
        if isinstance(layer, nn.Conv2d):
            number += 1
            if layers is None or f"conv{stage}_{number}" in layers:
                bound = (6 / layer.weight[0].numel()) ** 0.5
                weight = torch.empty(layer.weight.shape)
                bias = torch.empty(layer.bias.shape)
                state[f"features.{place}.weight"] = weight.uniform_(
                    -bound, bound, generator=generator
                )
                state[f"features.{place}.bias"] = bias.uniform_(-0.1, 0.1, generator=generator)
    if layers is None:
        for place, shape in CLASSIFIER.items():
            state[f"classifier.{place}.weight"] = torch.zeros(()).expand(shape)  # one number
            state[f"classifier.{place}.bias"] = torch.zeros(shape[0])
    path = folder / NAME
    torch.save(state, path)
    return path
