"""DISTS, structure and texture similarity of two images in the features of a network.

Source: Ding, Ma, Wang, Simoncelli, "Image quality assessment: unifying structure and texture
similarity" (IEEE TPAMI 2020).
"""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from callbacks import weights
from callbacks.backbones import load_features
from callbacks.base import ImageMetric
from callbacks.tensorboard import MetricProtocol
from degradations.base import ieee_float32

if TYPE_CHECKING:
    from datamodules.base import Batch

WEIGHTS = "vgg16"  # the name in configs/weights.yaml


class DISTS(ImageMetric):
    """Deep image structure and texture similarity; lower is better, 0 for equal images.

    The number of torchmetrics 1.9, whose network and parameters it uses, for whole images in
    [0, 1]. The authors' own script first shrinks images to 256 pixels on the shorter side.

    Args:
        round_8bit: Round images to 8 bit first, as numbers from saved PNG files are.
        strict_weights: Stop the run if VGG-16's weights are missing; otherwise the metric is off.
        every_n: In ``fit``, compute at the first validation and at every n-th after it.
        limit: Use only the first images of each dataset, this many; all of them by default.
        label: Name in logs and results.
        control: Also measure the bicubic enlargement of the same LR: the row ``bicubic`` of the
            results.
    """

    name = "dists"
    higher_is_better = False

    def __init__(
        self,
        round_8bit: bool = True,
        strict_weights: bool = False,
        every_n: int = 1,
        limit: int | None = None,
        label: str | None = None,
        control: bool = False,
    ) -> None:
        super().__init__(every_n, limit, label, control)
        self.round_8bit, self.strict_weights = round_8bit, strict_weights
        self.network: nn.Module | None = None
        self.sha256: str | None = None

    def absent(self) -> str:
        """Name the missing network in one line; empty if found."""
        return "" if weights.obtain(WEIGHTS) else weights.missing(WEIGHTS)

    def load(self) -> None:
        """Load the network.

        Raises:
            FileNotFoundError: If it is missing.
        """
        path = weights.find(WEIGHTS)
        if path is None:
            raise FileNotFoundError(weights.missing(WEIGHTS))
        self.network, self.sha256 = build(path), weights.digest_of(path)

    def protocol(self) -> MetricProtocol:
        """Return implementation, rounding, resize, range, and the weights with their hash."""
        return {
            "implementation": f"torchmetrics {version('torchmetrics')} dists",
            "color": "rgb",
            "border": 0,
            "round_8bit": self.round_8bit,
            "resize": "none",
            "data_range": 1,
            "weights": weights.entry_of(WEIGHTS)["file"],
            "sha256": self.sha256,
        }

    def compute(self, sr: Tensor, hr: Tensor, batch: Batch) -> Tensor:
        """Return (B,) distances.

        Raises:
            RuntimeError: If the network is not loaded yet.
        """
        if self.network is None:
            raise RuntimeError("DISTS has no network before `load` was called")
        images = [(x * 255).round() / 255 if self.round_8bit else x for x in (sr, hr)]
        device = sr.device
        with torch.no_grad(), torch.autocast(device.type, enabled=False), ieee_float32(device):
            return self.network(*(x.float() for x in images)).reshape(len(sr))


def build(path: Path) -> nn.Module:
    """Return the network of torchmetrics, on VGG-16 from a file.

    torchmetrics would download VGG-16 unverified, and draw random weights that it then replaces:
    so its loading function is replaced meanwhile, and the global generator restored.

    Args:
        path: The weights file.
    """
    from torchmetrics.functional.image import dists  # here: it takes seconds to import

    library: Any = dists
    vgg = SimpleNamespace(features=load_features("vgg16", path))
    original = library.vgg16
    library.vgg16 = lambda weights: vgg
    try:
        with torch.random.fork_rng(devices=[]):
            return dists.DISTSNetwork().requires_grad_(False).eval()
    finally:
        library.vgg16 = original
