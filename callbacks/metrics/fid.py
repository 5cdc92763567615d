"""Metrics on Inception features: FID, KID, KID-thumb, patch FID and patch KID.

The network is torch-fidelity's, which has the weights of the original implementation in TensorFlow.
KID-thumb is the estimate of KID on small thumbnails instead of a network's features: a substitute
if weights are missing or images are too small.

Source: FID by Heusel et al., "GANs trained by a two time-scale update rule converge to a local Nash
equilibrium" (NeurIPS 2017), Eq. 6. KID by Binkowski et al., "Demystifying MMD GANs" (ICLR 2018),
Eq. 4 and section 4. Patches by Chai et al., "Any-resolution training for high-resolution image
synthesis" (ECCV 2022), section 4.1; crops as Self-Cascade (Guo et al., ECCV 2024) takes them.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from callbacks.evaluation import MetricProtocol
from callbacks.metrics.base import TooSmall, WeightsMetric, as_float64
from callbacks.metrics.sets import SetMetric
from degradations.bicubic import resize
from degradations.draws import seed_of
from files.batch import Batch
from files.manifest import entry_of
from files.weights import check_numbers, read_weights

Preset = Literal["clean-fid", "torch-fidelity"]
SIDE = 299
SEED = 2020  # torch-fidelity's
SUBSETS = 100  # of KID, and the largest size of each
SUBSET_SIZE = 1000
THUMBNAIL = 8  # pixels of a side


class InceptionMetric(WeightsMetric, SetMetric):
    """A distance of Inception's 2048 features. Subclasses implement ``distance``.

    Args:
        preset: How images are prepared: ``clean-fid`` (antialiased bicubic, as papers since
            2022) or ``torch-fidelity`` (TensorFlow's bilinear without antialiasing, as earlier
            papers). Their numbers differ and must not be compared with one another.
    """

    files = ("fid-inception",)
    net: Inception

    def __init__(self, preset: Preset = "clean-fid", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.preset: Preset = preset
        self.sha256 = entry_of(self.files[0])["sha256"]

    def build(self, paths: list[Path]) -> None:
        """Load the network, which all Inception metrics of a run share."""
        self.net = _load_inception_once(paths[0])

    def protocol(self) -> MetricProtocol:
        """Return implementation, preset, rounding, resize, antialiasing, network and weights."""
        implementation = f"enlarger {type(self).name} 1, torch-fidelity {version('torch-fidelity')}"
        return {"implementation": implementation, **self.features_protocol()}

    def features_protocol(self) -> MetricProtocol:
        """Return preparation, rounding, network and weights."""
        return {
            **self.preparation_protocol(),
            "color": "rgb",
            "round_8bit": True,
            "data_range": 255,
            "network": "Inception-v3 of 2015-12-05, 2048 features",
            **self.weights_protocol(),
        }

    def preparation_protocol(self) -> MetricProtocol:
        """Return preset, resize and antialiasing."""
        filter_, antialias, _ = PREPARATIONS[self.preset]
        return {
            "preset": self.preset,
            "resize": f"{filter_} to {SIDE}x{SIDE}",
            "antialias": antialias,
        }

    def features(self, images: Tensor, batch: Batch) -> Tensor:
        """Return (B, 2048) float32 features of whole images, resized to 299x299."""
        prepare = PREPARATIONS[self.preset][2]
        name = ("inception", self.preset, self.sha256)
        return self.cached(images, name, lambda: self.embed(prepare(levels(images))))

    def embed(self, pixels: Tensor) -> Tensor:
        """Return (B, 2048) float32 features of (B, 3, 299, 299) pixels in [0, 255]."""
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

        tensors = read_weights(path).tensors  # the library would run a pickle's code
        net = FeatureExtractorInceptionV3("inception", ["2048"], str(path))
        check_numbers(str(path), tensors, net.state_dict())
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
def _load_inception_once(path: Path) -> Inception:
    """Return the network of a file; the same object for all metrics of a run."""
    return Inception(path)


def levels(images: Tensor) -> Tensor:
    """Round images of any shape, in [0, 1], to whole levels in [0, 255], as in saved files."""
    return (images.clamp(0, 1) * 255).round()


def bicubic(pixels: Tensor) -> Tensor:
    """Resize as clean-fid: Pillow's antialiased bicubic per channel in float, then clipped.

    Args:
        pixels: (B, 3, H, W) in [0, 255].

    Returns:
        (B, 3, 299, 299) in [0, 255].
    """
    # In float64 as Pillow's taps: float32 is 5e-3 of 255 away.
    resized = resize(as_float64(pixels), (SIDE, SIDE), clamp=False).clamp(0, 255)
    return resized.to(pixels)


def tensorflow_bilinear(pixels: Tensor) -> Tensor:
    """Resize as the original: TensorFlow 1's bilinear, half a pixel off and not antialiased.

    Shapes as in ``bicubic``.
    """
    from torch_fidelity.interpolate_compat_tensorflow import (
        interpolate_bilinear_2d_like_tensorflow1x,
    )

    return interpolate_bilinear_2d_like_tensorflow1x(pixels, (SIDE, SIDE), align_corners=False)


# Filter, whether it is antialiased, and the function: (B, 3, H, W) to (B, 3, 299, 299), [0, 255].
PREPARATIONS: dict[str, tuple[str, bool, Callable[[Tensor], Tensor]]] = {
    "clean-fid": ("bicubic, clipped", True, bicubic),
    "torch-fidelity": ("TensorFlow 1 bilinear", False, tensorflow_bilinear),
}


class FID(InceptionMetric):
    """Frechet Inception distance between the outputs and their HR images; lower is better.

    The number of clean-fid 0.1.35 (``mode="clean"``) or torch-fidelity 0.4, by ``preset``, for the
    same 8-bit images and the same weights. It is biased upward for few images: compare only numbers
    of equal counts, and quote the count.

    Args:
        preset: How images are prepared: ``clean-fid`` (antialiased bicubic, as papers since
            2022) or ``torch-fidelity`` (TensorFlow's bilinear without antialiasing, as earlier
            papers). Their numbers differ and must not be compared with one another.

    Examples:
        >>> from callbacks import FID
        >>> from lightning.pytorch import Trainer
        >>> trainer = Trainer(callbacks=[FID("torch-fidelity")])
        >>> trainer.test(model, data)  # doctest: +SKIP
    """

    name = "fid"
    enough = 5000
    remark = "biased upward"

    def distance(self, sr: Tensor, hr: Tensor) -> float:
        """Return the FID of (N, 2048) and (M, 2048) features."""
        return frechet_distance(sr, hr)


def frechet_distance(a: Tensor, b: Tensor) -> float:
    """Return |mean_a - mean_b|^2 + tr(A + B - 2 (A B)^(1/2)) with covariances A and B (N - 1).

    With A = P'P and B = Q'Q, the trace of the root is the sum of the singular values of P Q': for
    N < D images P is the centred features themselves, so nothing larger than N x M is decomposed.
    Singular covariances need no care, whereas `sqrtm` of their product has to add 1e-6.

    Args:
        a: (N, D) float64, N at least 2.
        b: (M, D) float64, M at least 2.

    Returns:
        The distance, at least 0.
    """
    p = _root_of_covariance(a)
    q = _root_of_covariance(b)
    means = (a.mean(0) - b.mean(0)).square().sum()
    traces = p.square().sum() + q.square().sum()
    return max(0.0, float(means + traces - 2 * torch.linalg.svdvals(p @ q.T).sum()))


def _root_of_covariance(features: Tensor) -> Tensor:
    """Return a matrix P with P'P the covariance of (N, D) features.

    It is (N, D), the centred features themselves, or (D, D) if that is smaller.
    """
    n, d = features.shape
    centred = (features - features.mean(0)) / math.sqrt(n - 1)
    if n <= d:
        return centred
    values, vectors = torch.linalg.eigh(centred.T @ centred)
    return values.clamp(min=0).sqrt()[:, None] * vectors.T


class KID(InceptionMetric):
    """Kernel Inception distance between the outputs and their HR images; lower is better.

    The mean over random subsets, as in clean-fid and torch-fidelity (not multiplied
    by 1000); ``<name>_std`` is the deviation between subsets. Unbiased for independent sets, so it
    may be slightly negative. Outputs are like their own HR, so against that it is too low, by an
    amount that falls as 1 / n: compare only numbers of equal counts, or set ``reference``.

    Args:
        preset: How images are prepared: ``clean-fid`` (antialiased bicubic, as papers since
            2022) or ``torch-fidelity`` (TensorFlow's bilinear without antialiasing, as earlier
            papers).
    """

    name = "kid"
    enough = SUBSET_SIZE
    remark = "one subset of all"

    def protocol(self) -> MetricProtocol:
        """Return that of all Inception metrics, the kernel and the subsets."""
        return {
            **super().protocol(),
            "kernel": "(x.y/2048 + 1)^3, unbiased",
            "subsets": f"{SUBSETS} of up to {SUBSET_SIZE}, seed {SEED}",
        }

    def distance(self, sr: Tensor, hr: Tensor) -> float:
        """Return the KID of (N, 2048) and (M, 2048) features."""
        return kernel_distance(sr, hr)[0]

    def distances(self, sr: Tensor, hr: Tensor) -> dict[str, float]:
        """Return the mean over subsets and, if there are several, their deviation.

        Args as for ``distance``.
        """
        mean, deviation = kernel_distance(sr, hr)
        if max(len(sr), len(hr)) <= SUBSET_SIZE:
            return {self.name: mean}
        return {self.name: mean, f"{self.name}_std": deviation}


def kernel_distance(
    a: Tensor, b: Tensor, subsets: int = SUBSETS, size: int = SUBSET_SIZE, paired: bool = False
) -> tuple[float, float]:
    """Return mean and deviation of ``polynomial_mmd`` over subsets drawn as in torch-fidelity.

    Args:
        a: (N, D) float64, N at least 2.
        b: (M, D) float64, M at least 2.
        subsets: Number of subsets.
        size: Images of each set in each subset. If neither set has more, both are used whole.
        paired: As of ``polynomial_mmd``; a subset then has the same places of both.
    """
    if max(len(a), len(b)) <= size:
        return polynomial_mmd(a, b, paired), 0.0
    size = min(size, len(a), len(b))
    draws = np.random.RandomState(SEED)
    # The kernel of all pairs at once, if it fits: a tenth of the time of 100 subsets of 1000.
    kernels = _kernels(a, b) if max(len(a), len(b)) <= 5000 else None
    values = []
    for _ in range(subsets):
        i = torch.from_numpy(draws.choice(len(a), size, replace=False))
        j = torch.from_numpy(draws.choice(len(b), size, replace=False))
        if paired:
            j = i
        if kernels is None:
            aa, bb, ab = _kernels(a[i], b[j])
        else:
            aa, bb, ab = (kernels[0][i][:, i], kernels[1][j][:, j], kernels[2][i][:, j])
        values.append(_mmd(aa, bb, ab, paired))
    return float(np.mean(values)), float(np.std(values))


def polynomial_mmd(a: Tensor, b: Tensor, paired: bool = False) -> float:
    """Return the unbiased estimate of the squared discrepancy under the kernel (x.y / D + 1)^3.

    Args:
        a: (N, D) float64, N at least 2.
        b: (M, D) float64, M at least 2.
        paired: If the n-th rows of both belong to the same image, they are not compared: they are
            more alike than rows of two images, so the estimate would be too low (Gretton et al.,
            "A Kernel Two-Sample Test", JMLR 2012, Eq. 4). N and M are equal.
    """
    aa, bb, ab = _kernels(a, b)
    return _mmd(aa, bb, ab, paired)


def _kernels(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the kernel of all pairs within a (N, N), within b (M, M), and between them (N, M)."""
    return _kernel(a, a), _kernel(b, b), _kernel(a, b)


def _kernel(x: Tensor, y: Tensor) -> Tensor:
    """Return (x.y / D + 1)^3 of all pairs of rows, (N, M)."""
    return (x @ y.T / x.shape[1] + 1) ** 3


def _mmd(aa: Tensor, bb: Tensor, ab: Tensor, paired: bool) -> float:
    """Return the estimate of ``polynomial_mmd`` from the results of ``_kernels``."""
    between = _mean_off_diagonal(ab) if paired else ab.mean()
    return float(_mean_off_diagonal(aa) + _mean_off_diagonal(bb) - 2 * between)


def _mean_off_diagonal(kernel: Tensor) -> Tensor:
    """Return the mean of a square matrix without its diagonal: of pairs of different images."""
    n = len(kernel)
    return (kernel.sum() - kernel.trace()) / (n * (n - 1))


class KIDThumb(SetMetric):
    """Maximum mean discrepancy of thumbnails under a cubic kernel; lower is better.

    Each image is shrunk to 8x8 RGB pixels by area, in [-1, 1]. An output is not compared with its
    own HR, which it is like. Unbiased, so it may be slightly negative. It needs no weights, and
    reproduces no published number.
    """

    name = "kid_thumb"
    enough = 100
    remark = "noisy"

    def protocol(self) -> MetricProtocol:
        """Return implementation, colour, thumbnails, kernel and subsets."""
        return {
            "implementation": "enlarger kid_thumb 2",
            "color": "rgb",
            "round_8bit": True,
            "data_range": "[-1, 1]",
            "resize": f"area to {THUMBNAIL}x{THUMBNAIL}",
            "kernel": f"(x.y/{3 * THUMBNAIL**2} + 1)^3, unbiased, without pairs of one image",
            "subsets": f"{SUBSETS} of up to {SUBSET_SIZE}, seed {SEED}",
        }

    def features_protocol(self) -> MetricProtocol:
        """Return colour and thumbnails."""
        of_distance = ("kernel", "subsets")
        return {key: value for key, value in self.protocol().items() if key not in of_distance}

    def features(self, images: Tensor, batch: Batch) -> Tensor:
        """Return (B, 192) thumbnails.

        Raises:
            TooSmall: If an image is smaller than its thumbnail.
        """
        if min(images.shape[-2:]) < THUMBNAIL:
            raise TooSmall(images, f"a thumbnail's {THUMBNAIL}x{THUMBNAIL}")
        rounded = levels(images) / 255
        return functional.adaptive_avg_pool2d(rounded * 2 - 1, THUMBNAIL).flatten(1)

    def distance(self, sr: Tensor, hr: Tensor) -> float:
        """Return the discrepancy of (N, D) and (M, D) thumbnails; of a reference, if N is not M."""
        return kernel_distance(sr, hr, paired=len(sr) == len(hr))[0]


class PatchMetric(InceptionMetric):
    """A distance of Inception features of 3 random crops of each image, which are not resized."""

    crops = 3

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(preset="clean-fid", **kwargs)  # crops are not resized: no choice

    def preparation_protocol(self) -> MetricProtocol:
        """Return how crops are drawn; there is no preset without resizing."""
        crops = f"{self.crops} of {SIDE}x{SIDE} from each image, not resized, seeded by its name"
        return {"crops": crops}

    def features(self, images: Tensor, batch: Batch) -> Tensor:
        """Return (B, crops, 2048) features.

        Raises:
            TooSmall: If an image is smaller than a crop.
        """
        if min(images.shape[-2:]) < SIDE:
            raise TooSmall(images, f"a crop's {SIDE}x{SIDE}")
        keys = tuple(batch["key"])
        name = ("patches", keys, self.sha256)
        return self.cached(images, name, lambda: self._embed_crops(images, keys))

    def _embed_crops(self, images: Tensor, keys: tuple[str, ...]) -> Tensor:
        """Return (B, crops, 2048) features of crops, whose places follow from the images' keys."""
        limit = np.array(images.shape[-2:]) - SIDE + 1
        crops = []
        for image, key in zip(levels(images), keys, strict=True):
            draws = np.random.default_rng(seed_of("patch", key))
            for top, left in draws.integers(limit, size=(self.crops, 2)):
                crops.append(image[:, top : top + SIDE, left : left + SIDE])
        return self.embed(torch.stack(crops)).view(len(images), self.crops, -1)


class PatchFID(PatchMetric):
    """Frechet Inception distance of seeded 299x299 crops, which are not resized; lower is better.

    The pFID of Self-Cascade's tables, which takes 3 crops of each image. An output and its HR are
    cropped at the same places.
    """

    name = "pfid"
    enough = 5000
    remark = "biased upward"

    def distance(self, sr: Tensor, hr: Tensor) -> float:
        """Return the FID of all crops, (N, crops, 2048) and (M, crops, 2048)."""
        return frechet_distance(sr.flatten(0, 1), hr.flatten(0, 1))


class PatchKID(PatchMetric):
    """Kernel Inception distance of seeded 299x299 crops, which are not resized; lower is better.

    The pKID of Self-Cascade's tables: the mean over 100 subsets of up to 1000 crops. Too low
    against the outputs' own HR, as ``KID``.
    """

    name = "pkid"
    enough = 1000
    remark = "noisy"

    def protocol(self) -> MetricProtocol:
        """Return that of the crops, the kernel and the subsets."""
        return {
            **super().protocol(),
            "kernel": "(x.y/2048 + 1)^3, unbiased",
            "subsets": f"{SUBSETS} of up to {SUBSET_SIZE} crops, seed {SEED}",
        }

    def distance(self, sr: Tensor, hr: Tensor) -> float:
        """Return the KID of all crops, (N, crops, 2048) and (M, crops, 2048)."""
        return kernel_distance(sr.flatten(0, 1), hr.flatten(0, 1))[0]
