"""The network of the package lpips, with weights of this machine, and features that are kept."""

from __future__ import annotations

import warnings
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any, Literal

import lpips
import torch
import xxhash
from torch import Tensor, nn

from callbacks import weights
from callbacks.backbones import Backbone, load_features

Net = Literal["alex", "vgg", "squeeze"]
# The name of each network in configs/weights.yaml.
NETS: dict[str, Backbone] = {"alex": "alexnet", "vgg": "vgg16", "squeeze": "squeezenet"}


class Network(nn.Module):
    """``lpips.LPIPS``, with the features of one image computed alone, so that they can be kept.

    Its convolutions are laid out with channels last, which takes three quarters of the time on a
    CPU and changes distances by 4e-7.

    Args:
        net: Which network.
        path: The file of its weights; the linear layers come with the package.
    """

    def __init__(self, net: Net, path: Path) -> None:
        super().__init__()
        # Nothing is fetched, and no random number drawn: all weights are replaced below.
        with warnings.catch_warnings(), torch.device("meta"):
            warnings.simplefilter("ignore")  # it calls torchvision in the old way
            model: Any = lpips.LPIPS(net=net, pretrained=False, pnet_rand=True, verbose=False)
        backbone = load_features(NETS[net], path).state_dict()
        state = {f"net.{k}": backbone[k.split(".", 1)[1]] for k in model.net.state_dict()}
        with as_file(files("lpips") / "weights" / "v0.1" / f"{net}.pth") as heads:
            linear = torch.load(heads, map_location="cpu", weights_only=True)
        for name, weight in linear.items():  # the package has each layer under two names
            state |= {name: weight, f"lins.{name.removeprefix('lin')}": weight}
        model.scaling_layer = type(model.scaling_layer)()  # its constants, off the meta device
        state |= {f"scaling_layer.{k}": v for k, v in model.scaling_layer.state_dict().items()}
        model.load_state_dict(state, strict=True, assign=True)
        self.model = model.requires_grad_(False).eval().to(memory_format=torch.channels_last)

    def train(self, mode: bool = True) -> Network:
        """Stay in evaluation mode, also within a model in training: linear layers have dropout."""
        return super().train(False)

    def forward(self, x: Tensor) -> list[Tensor]:
        """Features of (B, 3, H, W) in [-1, 1], each (B, h, w, C) with unit length at each place."""
        scaled = self.model.scaling_layer(x).contiguous(memory_format=torch.channels_last)
        return [lpips.normalize_tensor(f).permute(0, 2, 3, 1) for f in self.model.net(scaled)]

    def distances(self, a: list[Tensor], b: list[Tensor]) -> Tensor:
        """(B,) sums over the layers of the weighted squared difference, averaged over places."""
        layers = zip(self.model.lins, a, b, strict=True)
        weighted = (linear((x - y).square_().permute(0, 3, 1, 2)) for linear, x, y in layers)
        return torch.stack([lpips.spatial_average(w, keepdim=False) for w in weighted]).sum((0, 2))


class Perceptual(nn.Module):
    """LPIPS as a part of a loss: frozen, with gradients to its inputs.

    Args:
        net: Which network; ``vgg`` in most papers' losses. Its weights are found by their name in
            ``configs/weights.yaml``.
    """

    def __init__(self, net: Net = "vgg") -> None:
        super().__init__()
        self.net: Net = net
        self.network: Network | None = None

    def load(self) -> None:
        """Load the network, which only training needs.

        Raises:
            FileNotFoundError: It is missing; there is no loss with random weights.
        """
        name = NETS[self.net]
        path = weights.obtain(name)
        if path is None:
            raise FileNotFoundError(f"the perceptual loss lacks weights: {weights.missing(name)}")
        self.network = Network(self.net, path)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        """(B,) distances of (B, 3, H, W) in [0, 1].

        Raises:
            RuntimeError: The network is not loaded yet.
        """
        if self.network is None:
            raise RuntimeError("the perceptual loss has no network before `load` was called")
        return self.network.distances(self.network(a * 2 - 1), self.network(b * 2 - 1))


class Kept:
    """Features of images by their pixels, from one evaluation to the next.

    When there is no more room the first ones stay: images come in turn, so that any that made room
    for another would be gone when its turn comes.

    Args:
        size: Bytes that all of them may take.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self.found: dict[bytes, list[Tensor]] = {}
        self.used: set[bytes] = set()  # in this evaluation
        self.taken = 0  # bytes of what was found

    def begin(self) -> None:
        """An evaluation begins: what the one before did not use is dropped."""
        self.found = {key: self.found[key] for key in self.used if key in self.found}
        self.used = set()
        self.taken = sum(map(_size, self.found.values()))

    def get(self, images: Tensor, network: nn.Module) -> list[Tensor]:
        """``network(images)``, computed only if one of the images is not known.

        Args:
            images: (B, C, H, W) on the CPU.
            network: Gives a list of (B, ...).
        """
        shape = str(images.shape[1:]).encode()
        keys = [shape + xxhash.xxh3_128_digest(x.contiguous().numpy()) for x in images]
        self.used.update(keys)
        known = [self.found[key] for key in keys if key in self.found]
        if len(known) == len(keys):
            return [torch.stack(layer) for layer in zip(*known, strict=True)]
        computed: list[Tensor] = network(images)
        for i, key in enumerate(keys):
            one = [layer[i] for layer in computed]
            if key not in self.found and self.taken + _size(one) <= self.size:
                self.found[key] = [x.clone() for x in one]  # a view would hold the whole batch
                self.taken += _size(one)
        return computed


def _size(features: list[Tensor]) -> int:
    return sum(x.nbytes for x in features)
