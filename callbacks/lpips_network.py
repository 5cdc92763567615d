"""The network of LPIPS, in the layout that is quickest on a CPU, and features that are kept."""

from __future__ import annotations

from importlib.resources import as_file, files
from pathlib import Path
from typing import Literal

import torch
import xxhash
from torch import Tensor, nn

from callbacks import weights
from callbacks.backbones import Backbone, load_features

Net = Literal["alex", "vgg", "squeeze"]
# Of each network: its name in configs/weights.yaml, and the layers after which it is looked at.
NETS: dict[str, tuple[Backbone, tuple[int, ...]]] = {
    "alex": ("alexnet", (1, 4, 7, 9, 11)),
    "vgg": ("vgg16", (3, 8, 15, 22, 29)),
    "squeeze": ("squeezenet", (1, 4, 7, 9, 10, 11, 12)),
}


class Network(nn.Module):
    """Normalised features of a network, and how much each of them counts.

    Args:
        net: Which network.
        path: The file of its weights.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, net: Net, path: Path) -> None:
        super().__init__()
        name, self.ends = NETS[net]
        layers = load_features(name, path)[: self.ends[-1] + 1]
        self.layers = layers.to(memory_format=torch.channels_last)
        self.register_buffer("mean", torch.tensor([-0.030, -0.088, -0.188]).view(1, 3, 1, 1))
        self.register_buffer("deviation", torch.tensor([0.458, 0.448, 0.450]).view(1, 3, 1, 1))
        with as_file(files("lpips") / "weights" / "v0.1" / f"{net}.pth") as heads:
            state = torch.load(heads, map_location="cpu", weights_only=True)
        for number in range(len(self.ends)):
            self.register_buffer(f"linear{number}", state[f"lin{number}.model.1.weight"].flatten())

    def forward(self, x: Tensor) -> list[Tensor]:
        """Features of (B, 3, H, W) in [-1, 1], each (B, h, w, C) with unit length at each place."""
        x = ((x - self.mean) / self.deviation).contiguous(memory_format=torch.channels_last)
        found = []
        for number, layer in enumerate(self.layers):
            x = layer(x)
            if number in self.ends:
                features = x.permute(0, 2, 3, 1)
                length = torch.linalg.vector_norm(features, dim=3, keepdim=True)
                found.append(features / (length + 1e-10))
        return found

    def distances(self, a: list[Tensor], b: list[Tensor]) -> Tensor:
        """(B,) sums over the layers of the weighted squared difference, averaged over places."""
        weighted = (
            ((x - y).square_() @ self.get_buffer(f"linear{number}")).mean((1, 2))
            for number, (x, y) in enumerate(zip(a, b, strict=True))
        )
        return torch.stack(list(weighted)).sum(0)


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
        name = NETS[self.net][0]
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
