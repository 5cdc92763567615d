"""KID, the maximum mean discrepancy of Inception features under a cubic kernel.

Source: Binkowski et al., "Demystifying MMD GANs" (ICLR 2018), Eq. 4 and section 4.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from callbacks.inception import InceptionMetric, Preset
from callbacks.tensorboard import MetricProtocol

SEED = 2020  # torch-fidelity's


class KID(InceptionMetric):
    """Kernel Inception distance between the outputs and their HR images; lower is better.

    The mean over random subsets, as in clean-fid, torch-fidelity and torchmetrics (not multiplied
    by 1000); ``<name>_std`` is the deviation between subsets. Unbiased, so it needs fewer images
    than FID; it may be slightly negative.

    Args:
        preset: How images are prepared: ``clean-fid`` (antialiased bicubic, as papers since
            2022), ``torch-fidelity`` (TensorFlow's bilinear without antialiasing, as earlier
            papers), or ``torchmetrics`` (antialiased bilinear).
        subsets: Number of subsets.
        subset_size: Images in each, at most. If there are no more images than that, all are used,
            once.
        strict_weights: Stop the run if the weights are missing; otherwise the metric is off.
        every_n: In ``fit``, compute at the first validation and at every n-th after it.
        limit: Use only the first images of each dataset, this many; all of them by default.
        label: Name in logs and results, if one metric is used twice (say, for two presets).
        control: Also measure the bicubic enlargement of the same LR: the row ``bicubic`` of the
            results.
        reference: Compare the outputs with these instead of their HR images: a folder of
            images, or a file made by ``python -m callbacks.reference``.

    Raises:
        ValueError: If ``subsets`` is below 1 or ``subset_size`` below 2.
    """

    name = "kid"
    remark = "one subset of all"

    def __init__(
        self,
        preset: Preset = "clean-fid",
        subsets: int = 100,
        subset_size: int = 1000,
        strict_weights: bool = False,
        every_n: int = 1,
        limit: int | None = None,
        label: str | None = None,
        control: bool = False,
        reference: str | None = None,
    ) -> None:
        super().__init__(preset, strict_weights, every_n, limit, label, control, reference)
        for key, value, least in (("subsets", subsets, 1), ("subset_size", subset_size, 2)):
            if value < least:
                raise ValueError(f"`{key}` of KID is {value}; it must be at least {least}")
        self.subsets, self.subset_size, self.enough = subsets, subset_size, subset_size

    def protocol(self) -> MetricProtocol:
        """Return that of all Inception metrics, the kernel and the subsets."""
        return {
            **super().protocol(),
            "kernel": "(x.y/2048 + 1)^3, unbiased",
            "subsets": f"{self.subsets} of up to {self.subset_size}, seed {SEED}",
        }

    def distance(self, sr: Tensor, hr: Tensor) -> float:
        """Return the KID of (N, 2048) and (M, 2048) features."""
        return kernel_distance(sr, hr, self.subsets, self.subset_size)[0]

    def distances(self, sr: Tensor, hr: Tensor) -> dict[str, float]:
        """Return the mean over subsets and, if there are several, their deviation."""
        mean, deviation = kernel_distance(sr, hr, self.subsets, self.subset_size)
        one = len(sr) <= self.subset_size and len(hr) <= self.subset_size
        return {self.name: mean} | ({} if one else {f"{self.name}_std": deviation})


def kernel_distance(
    a: Tensor, b: Tensor, subsets: int = 100, size: int = 1000
) -> tuple[float, float]:
    """Return mean and deviation of ``polynomial_mmd`` over subsets drawn as in torch-fidelity.

    Args:
        a: (N, D) float64, N at least 2.
        b: (M, D) float64, M at least 2.
        subsets: Number of subsets.
        size: Images of each set in each subset. If neither set has more, both are used whole.
    """
    if max(len(a), len(b)) <= size:
        return polynomial_mmd(a, b), 0.0
    size = min(size, len(a), len(b))
    draws = np.random.RandomState(SEED)
    # The kernel of all pairs at once, if it fits: a tenth of the time of 100 subsets of 1000.
    whole = _kernels(a, b) if max(len(a), len(b)) <= 5000 else None
    values = []
    for _ in range(subsets):
        i, j = (torch.from_numpy(draws.choice(len(x), size, replace=False)) for x in (a, b))
        if whole is None:
            values.append(_mmd(*_kernels(a[i], b[j])))
        else:
            aa, bb, ab = whole
            values.append(_mmd(aa[i][:, i], bb[j][:, j], ab[i][:, j]))
    return float(np.mean(values)), float(np.std(values))


def polynomial_mmd(a: Tensor, b: Tensor) -> float:
    """Return the unbiased estimate of the squared discrepancy under the kernel (x.y / D + 1)^3.

    Args:
        a: (N, D) float64, N at least 2.
        b: (M, D) float64, M at least 2.
    """
    return _mmd(*_kernels(a, b))


def _kernels(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    aa, bb, ab = ((x @ y.T / x.shape[1] + 1) ** 3 for x, y in ((a, a), (b, b), (a, b)))
    return aa, bb, ab


def _mmd(aa: Tensor, bb: Tensor, ab: Tensor) -> float:
    n, m = ab.shape
    within = (aa.sum() - aa.trace()) / (n * (n - 1)) + (bb.sum() - bb.trace()) / (m * (m - 1))
    return float(within - 2 * ab.mean())
