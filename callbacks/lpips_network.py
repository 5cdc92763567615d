"""The network of the package lpips with local weights, and a cache of features."""

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
    """``lpips.LPIPS`` with the features of each image computed alone, so that they can be cached.

    Its convolutions have channels last, which takes three quarters of the time on a CPU and changes
    distances by 4e-7.

    Args:
        net: Which network.
        path: The file of its weights; the linear layers come with the package.
    """

    def __init__(self, net: Net, path: Path) -> None:
        super().__init__()
        # No download and no random numbers: all weights are replaced below.
        with warnings.catch_warnings(), torch.device("meta"):
            warnings.simplefilter("ignore")  # it calls torchvision in the old way
            model: Any = lpips.LPIPS(net=net, pretrained=False, pnet_rand=True, verbose=False)
        backbone = load_features(NETS[net], path).state_dict()
        state = {f"net.{k}": backbone[k.split(".", 1)[1]] for k in model.net.state_dict()}
        with as_file(files("lpips") / "weights" / "v0.1" / f"{net}.pth") as heads:
            linear = torch.load(heads, map_location="cpu", weights_only=True)
        for name, weight in linear.items():  # the package names each layer twice
            state |= {name: weight, f"lins.{name.removeprefix('lin')}": weight}
        model.scaling_layer = type(model.scaling_layer)()  # its constants, off the meta device
        state |= {f"scaling_layer.{k}": v for k, v in model.scaling_layer.state_dict().items()}
        model.load_state_dict(state, strict=True, assign=True)
        self.model = model.requires_grad_(False).eval().to(memory_format=torch.channels_last)

    def train(self, mode: bool = True) -> Network:
        """Stay in evaluation mode even if a model trains: linear layers have dropout."""
        return super().train(False)

    def forward(self, x: Tensor) -> list[Tensor]:
        """Return features of (B, 3, H, W) in [-1, 1]: (B, h, w, C), each of unit length in C."""
        scaled = self.model.scaling_layer(x).contiguous(memory_format=torch.channels_last)
        return [lpips.normalize_tensor(f).permute(0, 2, 3, 1) for f in self.model.net(scaled)]

    def distances(self, a: list[Tensor], b: list[Tensor]) -> Tensor:
        """Return (B,) weighted squared differences, averaged over places and summed over layers."""
        layers = zip(self.model.lins, a, b, strict=True)
        weighted = (linear((x - y).square_().permute(0, 3, 1, 2)) for linear, x, y in layers)
        return torch.stack([lpips.spatial_average(w, keepdim=False) for w in weighted]).sum((0, 2))


class Perceptual(nn.Module):
    """LPIPS as part of a loss: frozen, with gradients to its inputs.

    Args:
        net: The network; ``vgg`` in most papers' losses. Its weights are found by their name in
            ``configs/weights.yaml``.
    """

    def __init__(self, net: Net = "vgg") -> None:
        super().__init__()
        self.net: Net = net
        self.network: Network | None = None

    def load(self) -> None:
        """Load the network, which is needed only in training.

        Raises:
            FileNotFoundError: If it is missing; there is no loss with random weights.
        """
        name = NETS[self.net]
        path = weights.obtain(name)
        if path is None:
            raise FileNotFoundError(f"the perceptual loss lacks weights: {weights.missing(name)}")
        self.network = Network(self.net, path)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        """Return (B,) distances of (B, 3, H, W) in [0, 1].

        Raises:
            RuntimeError: If the network is not loaded yet.
        """
        if self.network is None:
            raise RuntimeError("the perceptual loss has no network before `load` was called")
        return self.network.distances(self.network(a * 2 - 1), self.network(b * 2 - 1))


class FeatureCache:
    """A cache of features by their image's pixels, from one evaluation to the next.

    A full cache keeps its first entries: images come in turn, so an evicted one would always be
    missing at its turn.

    Args:
        size: Bytes of all entries at most.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self.found: dict[bytes, list[Tensor]] = {}
        self.used: set[bytes] = set()  # in this evaluation
        self.taken = 0  # bytes of all entries

    def begin(self) -> None:
        """Begin an evaluation; drop entries that the last one did not use."""
        self.found = {key: self.found[key] for key in self.used if key in self.found}
        self.used = set()
        self.taken = sum(map(_size, self.found.values()))

    def get(self, images: Tensor, network: nn.Module) -> list[Tensor]:
        """Return ``network(images)``, computed only if one of the images is not cached.

        Args:
            images: (B, C, H, W) on the CPU.
            network: Returns a list of (B, ...).
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
