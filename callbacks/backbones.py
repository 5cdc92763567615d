"""Torchvision's networks as feature extractors of metrics, from the published weights files."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import torch
from torch import nn

Backbone = Literal["alexnet", "vgg16", "squeezenet"]  # names in configs/weights.yaml


def load_features(name: Backbone, path: Path) -> nn.Sequential:
    """Return the convolutions of a network, without its classifier; frozen, in evaluation.

    Args:
        name: Which network.
        path: The file of its weights.

    Raises:
        ValueError: If the file is damaged, or has the weights of another network.
    """
    from torchvision import models  # here: it takes seconds to import

    build = {
        "alexnet": models.alexnet,
        "vgg16": models.vgg16,
        "squeezenet": models.squeezenet1_1,
    }[name]
    with torch.device("meta"):  # random weights would take time and use global random numbers
        features: nn.Sequential = build(weights=None).features
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        own = {k.removeprefix("features."): v for k, v in state.items() if k.startswith("features")}
        features.load_state_dict(own, assign=True)
    except Exception as error:  # whatever torch raises for a file that is something else
        raise ValueError(f"{path} has no weights of {name}: {error}") from error
    return features.requires_grad_(False).eval()
