"""LPIPS in latents, without a decoder: the perceptual loss of InvSR.

Zhang et al., CVPR 2018 (arXiv 1801.03924), Eq. 1, on a VGG16 for latents; Yue et al., CVPR 2025
(arXiv 2412.09013), section 3.3. 14,716,736 parameters in 31 tensors for latents of 4 channels: the
convolutions, and one weight per compared channel. Names are those of the released file, which
repeats the weights as ``lins.*``, and has an unused ``scaling_layer``.

Latents have an eighth of the image's sides, so the first three of VGG16's poolings are omitted, and
the fourth, before its last three convolutions, is kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.resources import as_file, files
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn

from files.weights import fingerprint, load_part, read_weights
from lightning_modules.networks.layers import conv3x3
from lightning_modules.networks.running import Frozen

VGG16 = (64, 128, 256, 512, 512)  # channels of its stages
_CONVOLUTIONS = (2, 2, 3, 3, 3)  # in each of them
_TRAINER = "lightning_modules.LatentPerceptual"
_UNUSED = ("lins.", "scaling_layer.")  # in released files


class LatentDistance(nn.Module):
    """Distance of latents in the features of a network, for training it.

    Args:
        channels: Channels of the latent.
        widths: Channels of the five stages.
    """

    called = ("features", "distances")  # entry points besides `forward`, for sharding

    def __init__(self, channels: int = 4, widths: Sequence[int] = VGG16) -> None:
        super().__init__()
        self.net = _trunk(channels, widths)
        self.heads = [f"lin{number}" for number in range(len(widths))]
        for name, width in zip(self.heads, widths, strict=True):
            self.add_module(name, Head(width))

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        """Return (B,) distances of standardised latents (B, channels, h, w) of at least 2x2."""
        return self.distances(self.features(a), self.features(b))

    def features(self, z: Tensor) -> list[Tensor]:
        """Return features (B, C, h', w') float32 of each stage, of unit length per position."""
        features = []
        for stage in self.net:
            z = stage(z)
            # If all channels are 0, the root has no gradient; torch's norm uses 0.
            length = torch.linalg.vector_norm(z.float(), dim=1, keepdim=True)
            features.append(z.float() / (length + 1e-10))
        return features

    def distances(self, a: Sequence[Tensor], b: Sequence[Tensor]) -> Tensor:
        """Return (B,) sums over stages of weighted squared differences, averaged over positions."""
        parts = []
        # Half precision would round the small differences of similar latents away.
        with torch.autocast(a[0].device.type, enabled=False):
            for name, x, y in zip(self.heads, a, b, strict=True):
                weighted = self.get_submodule(name)((x - y).square())
                parts.append(weighted.mean((1, 2, 3)))
        return torch.stack(parts).sum(0)

    @torch.no_grad()
    def keep_positive(self) -> None:
        """Clamp the channels' weights to at least 0, so that differences never reduce distance."""
        for head in self.modules():
            if isinstance(head, Head):
                cast(nn.Conv2d, head.model[1]).weight.clamp_(min=0)


class LatentLPIPS(Frozen, LatentDistance):
    """The trained distance for a loss: frozen, with gradients to its inputs.

    Args:
        channels: Channels of the latent.
        widths: Channels of the five stages; those of VGG16 by default.
    """

    source: str  # source of the weights, with a hash; empty before `load`
    space: str = ""  # space of the training latents, if the file names it

    def __init__(self, channels: int = 4, widths: Sequence[int] = VGG16) -> None:
        super().__init__(channels, widths)
        self.source = ""
        self.requires_grad_(False).eval()

    def load(self, path: str | Path) -> None:
        """Load a released file, or a run of ``LatentPerceptual``.

        Args:
            path: The file; from a checkpoint, EMA is preferred.

        Raises:
            FileNotFoundError: If the file is missing.
            ValueError: If it is corrupt, of another method, or for latents of another width.
        """
        weights = read_weights(path)
        load_part(self, weights, "network")
        self.source = f"{Path(path).name} {fingerprint(self.state_dict())}"
        self.space = weights.frozen.get("space", "")
        self.latents = weights.trained_with.get("space", {})

    def official(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return the tensors of a released file, without those that the network does not use.

        Args:
            tensors: Tensors by the names in the file.
        """
        return {name: tensor for name, tensor in tensors.items() if not name.startswith(_UNUSED)}


class Head(nn.Module):
    """One weight per channel; in training, half of the values are dropped.

    Args:
        width: Number of channels.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.model = nn.Sequential(nn.Dropout(0.5), nn.Conv2d(width, 1, 1, bias=False))

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, width, h, w) to (B, 1, h, w)."""
        return self.model(x)


def from_imagenet(path: str | Path, channels: int = 4) -> dict[str, Tensor]:
    """Return initial weights: VGG16 trained on ImageNet, and LPIPS's channel weights.

    The latter come with the package lpips, version 0.1. The first convolution uses ImageNet's
    kernel of the first colour for each channel of the latent.

    Args:
        path: File of VGG16's weights, as torchvision publishes it.
        channels: Channels of the latent.

    Returns:
        All tensors of a ``LatentDistance``.

    Raises:
        ValueError: If the file is corrupt, or has another network.
    """
    published = read_weights(path).tensors
    state = {}
    with torch.device("meta"):  # without memory: only names are read
        trunk = _trunk(channels, VGG16)
    for name in trunk.state_dict():
        _, layer = name.split(".", 1)
        state[f"net.{name}"] = published[f"features.{layer}"]
    first = "net.slice1.0.weight"
    state[first] = state[first][:, :1].repeat(1, channels, 1, 1)
    with as_file(files("lpips") / "weights" / "v0.1" / "vgg.pth") as heads:
        return {**state, **read_weights(heads).tensors}


def _trunk(channels: int, widths: Sequence[int]) -> nn.Sequential:
    """Create VGG16's stages, each layer named by its number in that network, as in its files."""
    stages = nn.Sequential()
    layer = 0
    for number, (width, count) in enumerate(zip(widths, _CONVOLUTIONS, strict=True), 1):
        stage = nn.Sequential()
        if number > 1:  # in VGG16 these stages start with a pooling; here only the last one
            if number == len(widths):
                stage.add_module(str(layer), nn.MaxPool2d(2))
            layer += 1
        for _ in range(count):
            stage.add_module(str(layer), conv3x3(channels, width))
            stage.add_module(str(layer + 1), nn.ReLU())
            channels = width
            layer += 2
        stages.add_module(f"slice{number}", stage)
    return stages
