"""LPIPS, the distance of two images in the features of a network.

Source: Zhang, Isola, Efros, Shechtman, Wang, "The unreasonable effectiveness of deep features as a
perceptual metric" (CVPR 2018), Eq. 1.
"""

from __future__ import annotations

from importlib.metadata import version
from typing import TYPE_CHECKING

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor

from callbacks import weights
from callbacks.base import ImageMetric
from callbacks.lpips_network import NETS, FeatureCache, Net, Network
from callbacks.tensorboard import MetricProtocol
from callbacks.too_small import TooSmall
from degradations.base import ieee_float32

if TYPE_CHECKING:
    from datamodules.base import Batch

SMALLEST = 32


class LPIPS(ImageMetric):
    """Learned perceptual image patch similarity, version 0.1; lower is better.

    The number of ``lpips.LPIPS(net=...)`` of the package lpips 0.1.4 for images in [-1, 1]; most
    papers use AlexNet. Its linear layers come with that package, the network from torchvision.
    Images need 32x32 pixels. On a CPU the features of references are kept for the next validation,
    which then takes 0.55 of the time.

    Args:
        net: ``alex``, ``vgg`` or ``squeeze``; their numbers must not be compared.
        border: Pixels cut off at each side first; papers cut none.
        round_8bit: Round images to 8 bit first, as numbers from saved PNG files are.
        cache: Megabytes for kept features of references; 0 keeps none.
        strict_weights: Stop the run if the network's weights are missing; otherwise the metric is
            off.
        every_n: In ``fit``, compute at the first validation and at every n-th after it.
        limit: Use only the first images of each dataset, this many; all of them by default.
        label: Name in logs and results, if one metric is used twice (say, with two networks).
        control: Also measure the bicubic enlargement of the same LR: the row ``bicubic`` of the
            results.

    Raises:
        ValueError: If a value is out of range.
    """

    name = "lpips"
    higher_is_better = False

    def __init__(
        self,
        net: Net = "alex",
        border: int = 0,
        round_8bit: bool = True,
        cache: int = 1024,
        strict_weights: bool = False,
        every_n: int = 1,
        limit: int | None = None,
        label: str | None = None,
        control: bool = False,
    ) -> None:
        super().__init__(every_n, limit, label, control)
        if net not in NETS:
            raise ValueError(f"`net` of LPIPS is {net!r}; expected one of {', '.join(NETS)}")
        for key, value in (("border", border), ("cache", cache)):
            if value < 0:
                raise ValueError(f"`{key}` of LPIPS is {value}; expected 0 or more")
        self.net: Net = net
        self.border, self.round_8bit, self.strict_weights = border, round_8bit, strict_weights
        self.weights = NETS[net]
        self.network: Network | None = None
        self.sha256: str | None = None
        self._references = FeatureCache(cache * 2**20)

    def absent(self) -> str:
        """Name the missing network in one line; empty if found."""
        return "" if weights.obtain(self.weights) else weights.missing(self.weights)

    def load(self) -> None:
        """Load the network.

        Raises:
            FileNotFoundError: If it is missing.
        """
        path = weights.find(self.weights)
        if path is None:
            raise FileNotFoundError(weights.missing(self.weights))
        self.network, self.sha256 = Network(self.net, path), weights.digest_of(path)

    def protocol(self) -> MetricProtocol:
        """Return implementation, network, border, rounding, range, and the weights' hash."""
        return {
            "implementation": f"lpips {version('lpips')}, v0.1",
            "net": self.net,
            "color": "rgb",
            "border": self.border,
            "round_8bit": self.round_8bit,
            "data_range": "[-1, 1]",
            "weights": weights.entry_of(self.weights)["file"],
            "sha256": self.sha256,
        }

    def compute(self, sr: Tensor, hr: Tensor, batch: Batch) -> Tensor:
        """Return (B,) distances.

        Raises:
            RuntimeError: If the network is not loaded yet.
            TooSmall: If an image is below 32x32 pixels.
        """
        if self.network is None:
            raise RuntimeError("LPIPS has no network before `load` was called")
        cut = self.border
        height, width = (side - 2 * cut for side in sr.shape[-2:])
        if min(height, width) < SMALLEST:
            raise TooSmall(sr, f"{SMALLEST}x{SMALLEST} pixels without the border of {cut}")
        device = sr.device
        with torch.no_grad(), torch.autocast(device.type, enabled=False), ieee_float32(device):
            ours, theirs = (
                self._prepared(x[..., cut : cut + height, cut : cut + width]) for x in (sr, hr)
            )
            # Only on a CPU: on a GPU it is quicker to compute them again.
            kept = self._references if device.type == "cpu" else None
            references = kept.get(theirs, self.network) if kept else self.network(theirs)
            return self.network.distances(self.network(ours), references)

    def _start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        super()._start(trainer, pl_module)
        if self._active:
            self._references.begin()

    def _prepared(self, image: Tensor) -> Tensor:
        pixels = image.float() * 255
        return (pixels.round() if self.round_8bit else pixels) / 127.5 - 1
