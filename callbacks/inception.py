"""The Inception-v3 of FID and KID, and how each reference library prepares images for it.

The network is torch-fidelity's, which has the weights of the original implementation in
TensorFlow. Source: Heusel et al., "GANs trained by a two time-scale update rule converge to a local
Nash equilibrium" (NeurIPS 2017).
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from callbacks import weights
from callbacks.base import as_float64
from callbacks.sets import SetMetric
from callbacks.tensorboard import MetricProtocol
from degradations.bicubic import resize

if TYPE_CHECKING:
    from datamodules.base import Batch

Preset = Literal["clean-fid", "torch-fidelity", "torchmetrics"]
SIDE = 299
WEIGHTS = "fid-inception"  # the name in configs/weights.yaml


class InceptionMetric(SetMetric):
    """A distance of Inception's 2048 features. Subclasses implement ``distance``.

    Args:
        preset: How images are prepared: ``clean-fid`` (antialiased bicubic, as papers since
            2022), ``torch-fidelity`` (TensorFlow's bilinear without antialiasing, as earlier
            papers), or ``torchmetrics`` (antialiased bilinear). Their numbers differ and must not
            be compared with one another.
        strict_weights: Stop the run if the weights are missing; otherwise the metric is off.
        every_n: In ``fit``, compute at the first validation and at every n-th after it.
        limit: Use only the first images of each dataset, this many; all of them by default.
        label: Name in logs and results, if one metric is used twice (say, for two presets).
        control: Also measure the bicubic enlargement of the same LR: the row ``bicubic`` of the
            results.
        reference: Compare the outputs with these instead of their HR images: a folder of
            images, or a file made by ``python -m callbacks.reference``.

    Raises:
        ValueError: If the preset is unknown.
    """

    def __init__(
        self,
        preset: Preset = "clean-fid",
        strict_weights: bool = False,
        every_n: int = 1,
        limit: int | None = None,
        label: str | None = None,
        control: bool = False,
        reference: str | None = None,
    ) -> None:
        super().__init__(every_n, limit, label, control, reference)
        if preset not in PREPARATIONS:
            known = ", ".join(map(repr, PREPARATIONS))
            raise ValueError(
                f"`preset` of {type(self).__name__} is {preset!r}; expected one of {known}"
            )
        self.preset: Preset = preset
        self.strict_weights = strict_weights
        self.net: Inception | None = None
        self.sha256: str | None = weights.entry_of(WEIGHTS)["sha256"]

    def absent(self) -> str:
        """Name the missing weights in one line; empty if found."""
        return "" if weights.obtain(WEIGHTS) else weights.missing(WEIGHTS)

    def load(self) -> None:
        """Load the network.

        Raises:
            FileNotFoundError: If its weights are missing.
        """
        path = weights.find(WEIGHTS)
        if path is None:
            raise FileNotFoundError(weights.missing(WEIGHTS))
        self.sha256 = weights.digest_of(path)
        self.net = _shared(path, self.sha256)

    def protocol(self) -> MetricProtocol:
        """Return implementation, preset, rounding, resize, antialiasing, network and weights."""
        library = version("torch-fidelity")
        made_by = {"implementation": f"enlarger {type(self).name} 1, torch-fidelity {library}"}
        return made_by | self.features_protocol()

    def features_protocol(self) -> MetricProtocol:
        """Return preset, rounding, resize, antialiasing, network and weights."""
        filter_, antialias, _ = PREPARATIONS[self.preset]
        return {
            "preset": self.preset,
            "color": "rgb",
            "round_8bit": True,
            "data_range": 255,
            "resize": f"{filter_} to {SIDE}x{SIDE}",
            "antialias": antialias,
            "network": "Inception-v3 of 2015-12-05, 2048 features",
            "weights": weights.entry_of(WEIGHTS)["file"],
            "sha256": self.sha256,
        }

    def features(self, images: Tensor, batch: Batch) -> Tensor:
        """Return (B, 2048) features of whole images, resized to 299x299."""
        return self.extract(images)

    def extract(self, images: Tensor) -> Tensor:
        """Return (B, 2048) float32 features of (B, 3, H, W) images in [0, 1]."""
        prepare = PREPARATIONS[self.preset][2]
        what = ("inception", self.preset, self.sha256)
        return self.once(images, what, lambda: self.embed(prepare(levels(images))))

    def embed(self, pixels: Tensor) -> Tensor:
        """Return (B, 2048) float32 features of (B, 3, 299, 299) pixels in [0, 255].

        Raises:
            RuntimeError: If the network is not loaded yet.
        """
        if self.net is None:
            raise RuntimeError(f"{type(self).__name__} has no network before `load` was called")
        return self.net(pixels)


class Inception(nn.Module):
    """Torch-fidelity's network, with its normalisations folded into the convolutions.

    With ``channels_last`` that takes two thirds of the time, and changes features by 1e-6.

    Args:
        path: The file of weights.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        # Here, because they take seconds to import.
        from torch.nn.utils import fuse_conv_bn_eval
        from torch_fidelity.feature_extractor_inceptionv3 import (
            BasicConv2d,
            FeatureExtractorInceptionV3,
        )

        torch.load(path, weights_only=True)  # the library would run a pickle's code
        net = FeatureExtractorInceptionV3("inception", ["2048"], str(path))
        for block in net.modules():
            if isinstance(block, BasicConv2d):
                block.conv, block.bn = fuse_conv_bn_eval(block.conv, block.bn), nn.Identity()
        layers = [layer for name, layer in net.named_children() if name != "fc"]
        self.layers = nn.Sequential(*layers).to(memory_format=torch.channels_last)

    def forward(self, pixels: Tensor) -> Tensor:
        """Return (B, 2048) features of (B, 3, 299, 299) pixels in [0, 255]."""
        x = ((pixels - 128) / 128).contiguous(memory_format=torch.channels_last)
        return self.layers(x).flatten(1)


@functools.lru_cache(maxsize=1)
def _shared(path: Path, sha256: str) -> Inception:
    """Return the network that all metrics of a run share."""
    return Inception(path)


def levels(images: Tensor) -> Tensor:
    """Round images in [0, 1] to whole levels in [0, 255], as in saved files."""
    return (images.clamp(0, 1) * 255).round()


def bicubic(pixels: Tensor) -> Tensor:
    """Resize as clean-fid: Pillow's antialiased bicubic per channel in float, then clipped."""
    # In float64 as Pillow's taps: float32 is 5e-3 of 255 away.
    resized = resize(as_float64(pixels), (SIDE, SIDE), clamp=False).clamp(0, 255)
    return resized.to(pixels)


def bilinear(pixels: Tensor) -> Tensor:
    """Resize as torchmetrics: antialiased bilinear."""
    return functional.interpolate(pixels, (SIDE, SIDE), mode="bilinear", antialias=True)


def tensorflow_bilinear(pixels: Tensor) -> Tensor:
    """Resize as the original: TensorFlow 1's bilinear, half a pixel off and not antialiased."""
    from torch_fidelity.interpolate_compat_tensorflow import (
        interpolate_bilinear_2d_like_tensorflow1x,
    )

    return interpolate_bilinear_2d_like_tensorflow1x(pixels, (SIDE, SIDE), align_corners=False)


# Filter, whether it is antialiased, and the function: (B, 3, H, W) to (B, 3, 299, 299), [0, 255].
PREPARATIONS: dict[str, tuple[str, bool, Callable[[Tensor], Tensor]]] = {
    "clean-fid": ("bicubic, clipped", True, bicubic),
    "torch-fidelity": ("TensorFlow 1 bilinear", False, tensorflow_bilinear),
    "torchmetrics": ("bilinear", True, bilinear),
}
