"""VGG and its kin of torchvision from a file, and DISTS, which a metric and a loss share."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from files.weights import fitted, part_of, read_weights

Backbone = Literal["alexnet", "vgg16", "squeezenet"]  # names in configs/weights.yaml
POOLINGS = (4, 9, 16, 23)  # places in torchvision's VGG16
MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet
CHANNELS = (3, 64, 128, 256, 512, 512)  # of the image, and of each stage


def load_features(name: Backbone, path: Path) -> nn.Sequential:
    """Return a network of torchvision without its classifier, with weights; frozen, in eval mode.

    Args:
        name: Which network.
        path: The file of its weights.

    Raises:
        ValueError: If the file is damaged, or has the weights of another network.
    """
    from torchvision import models  # here: it takes seconds to import

    architecture = "squeezenet1_1" if name == "squeezenet" else name
    with torch.device("meta"):  # random weights would take time and use global random numbers
        network: Any = models.get_model(architecture, weights=None)
    features: nn.Sequential = network.features
    own = part_of(read_weights(path).tensors, "features")
    state = fitted(features, own, f"{path}, as weights of {name},").state
    features.load_state_dict(state, assign=True)
    return features.requires_grad_(False).eval()


class DISTSNetwork(nn.Module):
    """VGG16 with L2 pooling, and the distance of its features; frozen.

    Args:
        path: The file of VGG16's weights; those of the distance come with torchmetrics.

    Raises:
        ValueError: As in ``load_features``.

    Source: Ding et al., TPAMI 2020 (arXiv 2004.07728).
    """

    mean: Tensor
    deviation: Tensor
    alpha: Tensor
    beta: Tensor

    def __init__(self, path: Path) -> None:
        super().__init__()
        from torchmetrics.functional.image.dists import L2pooling  # it imports torchvision

        self.features = load_features("vgg16", path)[:-1]  # up to the last ReLU
        for place, channels in zip(POOLINGS, CHANNELS[1:], strict=False):
            self.features[place] = L2pooling(channels=channels)
        with as_file(files("torchmetrics.functional.image") / "dists_models/weights.pt") as file:
            factors = read_weights(file).tensors
        total = factors["alpha"].sum() + factors["beta"].sum()
        buffers = {
            "mean": torch.tensor(MEAN).view(1, 3, 1, 1),
            "deviation": torch.tensor(DEVIATION).view(1, 3, 1, 1),
            "alpha": factors["alpha"].flatten() / total,
            "beta": factors["beta"].flatten() / total,
        }
        for name, buffer in buffers.items():
            self.register_buffer(name, buffer, persistent=False)

    def forward(self, images: Tensor) -> list[Tensor]:
        """Return the images themselves, and the last ReLU of each stage.

        Args:
            images: (B, 3, H, W), about [0, 1].
        """
        outputs = [images]
        x = (images - self.mean) / self.deviation
        for place, layer in enumerate(self.features):
            if place in POOLINGS:
                outputs.append(x)
            # torchvision's ReLU would change the outputs in place.
            x = torch.relu(x) if isinstance(layer, nn.ReLU) else layer(x)
        return [*outputs, x]

    def distances(self, a: Sequence[Tensor], b: Sequence[Tensor]) -> Tensor:
        """Return (B,) distances in float32, without autocast; 0 for equal images.

        Args:
            a: Features of images, of ``forward``.
            b: Features of others.
        """
        textures = []
        structures = []
        for features_a, features_b in zip(a, b, strict=True):
            x = features_a.float()
            y = features_b.float()
            mean_x = x.mean((2, 3))
            mean_y = y.mean((2, 3))
            variance_x = x.var((2, 3), correction=0)
            variance_y = y.var((2, 3), correction=0)
            covariance = (x * y).mean((2, 3)) - mean_x * mean_y
            textures.append((2 * mean_x * mean_y + 1e-6) / (mean_x**2 + mean_y**2 + 1e-6))
            structures.append((2 * covariance + 1e-6) / (variance_x + variance_y + 1e-6))
        similarity = torch.cat(textures, 1) @ self.alpha + torch.cat(structures, 1) @ self.beta
        return 1 - similarity
