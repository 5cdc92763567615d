"""LPIPS, as a metric and as a training loss, and DISTS, as a metric.

Sources: Zhang, Isola, Efros, Shechtman, Wang, "The unreasonable effectiveness of deep features as a
perceptual metric" (CVPR 2018), Eq. 1. Ding, Ma, Wang, Simoncelli, "Image quality assessment:
unifying structure and texture similarity" (TPAMI 2020).
"""

from __future__ import annotations

import warnings
from importlib.metadata import version
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any, Literal

import lpips
import torch
from torch import Tensor, nn

from callbacks.evaluation import MetricProtocol
from callbacks.metrics.base import ImageMetric, TooSmall, WeightsMetric
from files.batch import Batch
from files.checksums import file_hash
from files.manifest import locate
from files.vgg import Backbone, DISTSNetwork, load_features
from files.weights import read_weights

Net = Literal["alex", "vgg", "squeeze"]
NETS: dict[Net, Backbone] = {"alex": "alexnet", "vgg": "vgg16", "squeeze": "squeezenet"}
SMALLEST = 32  # pixels of a side that LPIPS and DISTS need


class Network(nn.Module):
    """LPIPS's network and distance as two steps: features of an image, distance of features.

    It is ``lpips.LPIPS``, which only takes two images at once.

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
            network: Any = lpips.LPIPS(net=net, pretrained=False, pnet_rand=True, verbose=False)
        backbone = load_features(NETS[net], path).state_dict()
        state = {f"net.{k}": backbone[k.split(".", 1)[1]] for k in network.net.state_dict()}
        with as_file(files("lpips") / "weights" / "v0.1" / f"{net}.pth") as heads:
            linear = read_weights(heads).tensors
        for name, weight in linear.items():  # the package names each layer twice
            state |= {name: weight, f"lins.{name.removeprefix('lin')}": weight}
        network.scaling_layer = type(network.scaling_layer)()  # its constants, off the meta device
        state |= {f"scaling_layer.{k}": v for k, v in network.scaling_layer.state_dict().items()}
        network.load_state_dict(state, strict=True, assign=True)
        self.model = network.requires_grad_(False).eval().to(memory_format=torch.channels_last)

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
        self.source = ""  # of the frozen weights, for checkpoints

    def load(self) -> None:
        """Load the network, which is needed only in training.

        Raises:
            FileNotFoundError: If it is missing; there is no loss with random weights.
        """
        name = NETS[self.net]
        path = locate(name)
        self.network = Network(self.net, path)
        self.source = f"{path.name} {file_hash(path)[:16]}"

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        """Return (B,) distances of (B, 3, H, W) in [0, 1]; call ``load`` first."""
        assert self.network is not None
        return self.network.distances(self.network(a * 2 - 1), self.network(b * 2 - 1))


class LPIPS(WeightsMetric, ImageMetric):
    """Learned perceptual image patch similarity, version 0.1; lower is better.

    The number of ``lpips.LPIPS(net=...)`` of the package lpips 0.1.4 for images in [-1, 1]; most
    papers use AlexNet. Its linear layers come with that package, the network from torchvision.
    Images need 32x32 pixels.

    Args:
        net: ``alex``, ``vgg`` or ``squeeze``; their numbers must not be compared.

    Examples:
        >>> from callbacks import LPIPS
        >>> from lightning.pytorch import Trainer
        >>> trainer = Trainer(callbacks=[LPIPS("alex")])
    """

    name = "lpips"
    higher_is_better = False
    network: Network

    def __init__(self, net: Net = "alex", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.net: Net = net
        self.files = (NETS[net],)

    def build(self, paths: list[Path]) -> None:
        """Build the network."""
        self.network = Network(self.net, paths[0])

    def protocol(self) -> MetricProtocol:
        """Return implementation, network, border, rounding, range, and the weights' hash."""
        return {
            "implementation": f"lpips {version('lpips')}, v0.1",
            "net": self.net,
            "color": "rgb",
            "border": 0,
            "round_8bit": True,
            "data_range": "[-1, 1]",
            **self.weights_protocol(),
        }

    def compute(self, sr: Tensor, hr: Tensor, batch: Batch) -> Tensor:
        """Return (B,) distances.

        Raises:
            TooSmall: If an image is below 32x32 pixels.
        """
        if min(sr.shape[-2:]) < SMALLEST:
            raise TooSmall(sr, f"{SMALLEST}x{SMALLEST} pixels")
        output = self.network((sr * 255).round() / 127.5 - 1)
        reference = self.network((hr * 255).round() / 127.5 - 1)
        return self.network.distances(output, reference)


class DISTS(WeightsMetric, ImageMetric):
    """Deep image structure and texture similarity; lower is better.

    The number of torchmetrics and of the authors' package for images in [0, 1], of their own size:
    the authors shrink larger ones to 256 pixels first. The network's weights come from torchvision,
    those of the distance with torchmetrics.

    Examples:
        >>> from callbacks import DISTS
        >>> from lightning.pytorch import Trainer
        >>> trainer = Trainer(callbacks=[DISTS()])
    """

    name = "dists"
    higher_is_better = False
    files = ("vgg16",)
    network: DISTSNetwork

    def build(self, paths: list[Path]) -> None:
        """Build the network."""
        self.network = DISTSNetwork(paths[0]).to(memory_format=torch.channels_last)

    def protocol(self) -> MetricProtocol:
        """Return implementation, border, rounding, range, and the weights' hash."""
        return {
            "implementation": "DISTS, weights of torchmetrics",
            "color": "rgb",
            "border": 0,
            "round_8bit": True,
            "data_range": "[0, 1]",
            **self.weights_protocol(),
        }

    def compute(self, sr: Tensor, hr: Tensor, batch: Batch) -> Tensor:
        """Return (B,) distances.

        Raises:
            TooSmall: If an image is below 32x32 pixels.
        """
        if min(sr.shape[-2:]) < SMALLEST:
            raise TooSmall(sr, f"{SMALLEST}x{SMALLEST} pixels")
        output = self.network((sr * 255).round() / 255)
        reference = self.network((hr * 255).round() / 255)
        return self.network.distances(output, reference)
