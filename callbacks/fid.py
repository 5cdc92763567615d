"""FID, the Frechet distance of Inception features.

Source: Heusel et al., "GANs trained by a two time-scale update rule converge to a local Nash
equilibrium" (NeurIPS 2017), Eq. 6.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from callbacks.inception import InceptionMetric


class FID(InceptionMetric):
    """Frechet Inception distance between the outputs and their HR images; lower is better.

    The number of clean-fid 0.1.35 (``mode="clean"``), torch-fidelity 0.4 or torchmetrics 1.9, by
    ``preset``, for the same 8-bit images and the same weights. It is biased upward for few
    images: compare only numbers of equal counts, and quote the count.

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

    Raises:
        ValueError: For a single image, which has no covariance.
    """
    if min(len(a), len(b)) < 2:
        raise ValueError(f"a Frechet distance needs 2 images or more, got {len(a)} and {len(b)}")
    p, q = _root(a), _root(b)
    means = (a.mean(0) - b.mean(0)).square().sum()
    traces = p.square().sum() + q.square().sum()
    return max(0.0, float(means + traces - 2 * torch.linalg.svdvals(p @ q.T).sum()))


def _root(features: Tensor) -> Tensor:
    """Return P with P'P the covariance: (N, D), or (D, D) if that is smaller."""
    n, d = features.shape
    centred = (features - features.mean(0)) / math.sqrt(n - 1)
    if n <= d:
        return centred
    values, vectors = torch.linalg.eigh(centred.T @ centred)
    return values.clamp(min=0).sqrt()[:, None] * vectors.T
