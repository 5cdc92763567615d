"""FID: the distance against scipy, the number against the libraries, given the same weights."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy.linalg import sqrtm
from torch import Tensor
from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

from callbacks.metrics.fid import FID, bicubic, frechet_distance
from tests.callbacks.random_inception import inception, inception_file

__all__ = ["inception", "inception_file"]
pytestmark = pytest.mark.filterwarnings("ignore:Matrix is singular")  # as tested here


def by_scipy(a: Tensor, b: Tensor) -> float:
    """Compute the formula as pytorch-fid and clean-fid, by the root of a matrix."""
    x, y = a.numpy(), b.numpy()
    one, two = np.cov(x, rowvar=False), np.cov(y, rowvar=False)
    root = np.trace(sqrtm(one @ two)).real
    if not np.isfinite(root):  # SciPy 1.13 finds none of a singular matrix
        root = np.sqrt(np.linalg.eigvals(one @ two).real.clip(min=0)).sum()
    means = ((x.mean(0) - y.mean(0)) ** 2).sum()
    return float(means + np.trace(one) + np.trace(two) - 2 * root)


def gaussian(n: int, d: int, rank: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(rank, d, generator=generator, dtype=torch.float64)
    shift = torch.randn(d, generator=generator, dtype=torch.float64)
    return torch.randn(n, rank, generator=generator, dtype=torch.float64) @ mixing + shift


@settings(deadline=None, max_examples=40)
@given(
    n=st.integers(2, 90),
    m=st.integers(2, 90),
    rank=st.integers(1, 32),
    other=st.integers(1, 32),
    seed=st.integers(0, 99),
)
def test_the_distance_is_scipys_also_for_singular_covariances(
    n: int, m: int, rank: int, other: int, seed: int
) -> None:
    a, b = gaussian(n, 32, rank, seed), gaussian(m, 32, other, seed + 100)
    assert frechet_distance(a, b) == pytest.approx(by_scipy(a, b), rel=1e-5)


# ------------------------------------------------------------------------------- the preparation


def pixels(h: int = 70, w: int = 90, n: int = 2) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (n, 3, h, w), generator=generator, dtype=torch.uint8)


@pytest.mark.parametrize("size", [(70, 90), (299, 299), (512, 300), (301, 1200)])
def test_clean_fids_resize_is_pillows_in_float(size: tuple[int, int]) -> None:
    images = pixels(*size)
    ours = bicubic(images.float())
    for image, made in zip(images.numpy(), ours.numpy(), strict=True):
        for channel, plane in zip(image, made, strict=True):
            whole = Image.fromarray(channel.astype(np.float32))
            theirs = np.asarray(whole.resize((299, 299), Image.Resampling.BICUBIC)).clip(0, 255)
            assert np.abs(plane - theirs).max() < 1e-4  # of 255


# ---------------------------------------------------------------------- against the libraries


def test_the_network_is_torch_fidelitys(inception: Path) -> None:
    images = pixels(n=3)
    theirs = FeatureExtractorInceptionV3("theirs", ["2048"], str(inception))(images)[0]
    metric = FID("torch-fidelity")
    metric.load()
    ours = metric.features(images / 255, {})
    assert theirs.std() > 0.01  # random, but not constant
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


def test_pixels_are_rounded_not_cut_off(inception: Path) -> None:
    """torchmetrics' `normalize=True` truncates instead."""
    metric = FID()
    metric.load()
    images = pixels(40, 40)
    moved = (images + 0.4).clamp(0, 255) / 255
    assert torch.equal(metric.features(moved, {}), metric.features(images / 255, {}))
