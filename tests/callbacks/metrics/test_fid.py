"""FID, KID and their kinds: against formulas, and the libraries given the same weights."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy.linalg import sqrtm
from torch.utils.data import Dataset
from torch_fidelity import calculate_metrics
from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

from callbacks.metrics.fid import (
    FID,
    KID,
    Inception,
    KIDThumb,
    PatchFID,
    PatchKID,
    bicubic,
    frechet_distance,
    kernel_distance,
    polynomial_mmd,
)
from tests.callbacks.random_inception import inception, inception_file, small_inception
from tests.callbacks.tiny import Images, Tiny, loader, trainer
from tests.make import keys, smooth, uniform

__all__ = ["inception", "inception_file", "small_inception"]
pytestmark = pytest.mark.filterwarnings("ignore:Matrix is singular")  # as tested here


def gaussian(count, size, rank, seed):
    """Features (count, size) of a normal distribution in a subspace."""
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(rank, size, generator=generator, dtype=torch.float64)
    shift = torch.randn(size, generator=generator, dtype=torch.float64)
    return torch.randn(count, rank, generator=generator, dtype=torch.float64) @ mixing + shift


def pixels(height=70, width=90, count=2):
    return (uniform(count, 3, height, width) * 255).round().byte()


# -------------------------------------------------------------------------------------------- FID


def by_scipy(a, b):
    """The formula as in pytorch-fid and clean-fid, by the root of a matrix."""
    product = np.cov(a, rowvar=False) @ np.cov(b, rowvar=False)
    root = np.trace(sqrtm(product)).real
    if not np.isfinite(root):  # SciPy 1.13 finds none of a singular matrix
        root = np.sqrt(np.linalg.eigvals(product).real.clip(min=0)).sum()
    means = (a.mean(0) - b.mean(0)).square().sum().item()
    return means + np.trace(np.cov(a, rowvar=False)) + np.trace(np.cov(b, rowvar=False)) - 2 * root


@settings(deadline=None, max_examples=40)
@given(
    n=st.integers(2, 90),
    m=st.integers(2, 90),
    rank=st.integers(1, 32),
    other_rank=st.integers(1, 32),
    seed=st.integers(0, 99),
)
def test_the_distance_is_scipys_also_for_singular_covariances(n, m, rank, other_rank, seed):
    a = gaussian(n, 32, rank, seed)
    b = gaussian(m, 32, other_rank, seed + 100)

    assert frechet_distance(a, b) == pytest.approx(by_scipy(a, b), rel=1e-5)


@pytest.mark.parametrize("size", [(70, 90), (299, 299), (512, 300), (301, 1200)])
def test_clean_fids_resize_is_pillows_in_float(size):
    images = pixels(*size, count=1)

    resized = bicubic(images.float())

    for plane, ours in zip(images[0].float().numpy(), resized[0], strict=True):
        theirs = Image.fromarray(plane).resize((299, 299), Image.Resampling.BICUBIC)
        np.testing.assert_allclose(ours, np.asarray(theirs).clip(0, 255), atol=1e-4)  # of 255


def test_the_network_is_torch_fidelitys(inception):
    images = pixels(count=3)
    metric = FID("torch-fidelity")
    metric.load()

    ours = metric.features(images / 255, keys(3))

    theirs = FeatureExtractorInceptionV3("theirs", ["2048"], str(inception))(images)[0]
    assert theirs.std() > 0.01  # random, but not constant
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


def test_pixels_are_rounded_not_cut_off(inception):
    """torchmetrics' `normalize=True` truncates instead."""
    metric = FID()
    metric.load()
    images = pixels(40, 40)

    moved = metric.features((images + 0.4).clamp(0, 255) / 255, keys(2))

    assert torch.equal(moved, metric.features(images / 255, keys(2)))


# -------------------------------------------------------------------------------------------- KID


def mmd_by_hand(a, b):
    def kernel(x, y):
        return float(x @ y / len(x) + 1) ** 3

    def within(x):
        pairs = [(i, j) for i in range(len(x)) for j in range(len(x)) if i != j]
        return sum(kernel(x[i], x[j]) for i, j in pairs) / len(pairs)

    across = sum(kernel(x, y) for x in a for y in b) / (len(a) * len(b))
    return within(a) + within(b) - 2 * across


@pytest.mark.parametrize(("n", "m"), [(6, 6), (4, 9), (2, 2)])
def test_the_estimate_of_kid_is_the_papers(n, m):
    a = gaussian(n, 5, 5, 0)
    b = gaussian(m, 5, 5, 1)

    assert polynomial_mmd(a, b) == pytest.approx(mmd_by_hand(a, b), rel=1e-10)


@pytest.mark.parametrize("size", [10, 5])
def test_outputs_like_their_own_hr_are_not_below_0(size):
    x = gaussian(10, 3, 3, 7)

    assert kernel_distance(x, x, 4, size)[0] < -0.1
    assert kernel_distance(x, x, 4, size, paired=True)[0] == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("count", [30, pytest.param(5001, marks=pytest.mark.slow)])
def test_kernels_of_all_pairs_or_of_each_subset(count):
    a = gaussian(count, 4, 4, 0)
    b = gaussian(30, 4, 4, 1)

    mean, deviation = kernel_distance(a, b, subsets=5, size=10)

    assert (mean, deviation) == kernel_distance(a, b, subsets=5, size=10)  # the seed is its own
    assert deviation > 0
    assert abs(mean - polynomial_mmd(a, b)) < 4 * deviation


class Tensors(Dataset):
    """Images as torch-fidelity takes them."""

    def __init__(self, images):
        self.images = images

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        return self.images[index]


@pytest.mark.slow
def test_kid_is_torch_fidelitys_with_the_same_subsets(inception):
    sr = pixels(count=6)
    hr = (pixels(count=8)[1:] * 0.8).to(torch.uint8)
    metric = KID("torch-fidelity")
    metric.load()

    features = [metric.features(x / 255, keys(len(x))).double() for x in (sr, hr)]
    mean, deviation = kernel_distance(*features, subsets=4, size=5)

    theirs = calculate_metrics(
        input1=Tensors(sr),
        input2=Tensors(hr),
        kid=True,
        kid_subsets=4,
        kid_subset_size=5,
        cuda=False,
        cache=False,
        verbose=False,
        save_cpu_ram=True,
        feature_extractor_weights_path=str(inception),
    )
    assert mean == pytest.approx(theirs["kernel_inception_distance_mean"], rel=1e-3, abs=1e-6)
    assert deviation == pytest.approx(theirs["kernel_inception_distance_std"], rel=1e-3, abs=1e-6)


def test_metrics_of_one_preset_share_the_networks_work(small_inception, tmp_path, monkeypatch):
    calls = []
    forward = Inception.forward

    def counted(self, images):
        calls.append(len(images))
        return forward(self, images)

    monkeypatch.setattr(Inception, "forward", counted)
    alone = FID()
    fid = FID()
    data = loader(Images(2))

    trainer(tmp_path, alone).validate(Tiny(), data, verbose=False)
    trainer(tmp_path, fid, KID()).validate(Tiny(), data, verbose=False)
    assert calls == [2, 2] * 2  # outputs and HR, each time
    assert fid.records == alone.records

    trainer(tmp_path, fid, KID("torch-fidelity")).validate(Tiny(), data, verbose=False)
    assert calls == [2, 2] * 4


# -------------------------------------------------------------------------------------- KID-thumb


def thumbnail_distance(sr, hr):
    metric = KIDThumb()
    features = [metric.features(x, keys(len(x))).double() for x in (sr, hr)]
    return metric.distance(*features)


def test_thumbnails_are_means_of_areas():
    images = smooth(2, (32, 32), cell=8)

    thumbnails = KIDThumb().features(images, keys(2)).view(2, 3, 8, 8)

    levels = (images * 255).round() / 255
    expected = levels[1, 2, 12:16, 20:24].mean() * 2 - 1
    torch.testing.assert_close(thumbnails[1, 2, 3, 5], expected)


def test_kid_thumb_tells_sets_apart_but_not_samples_of_one():
    def sample(seed):
        return smooth(40, (32, 32), cell=8, seed=seed) * 0.5

    tint = torch.tensor([1.2, 1.0, 0.8]).view(3, 1, 1)

    same = [thumbnail_distance(sample(2 * n), sample(2 * n + 1)) for n in range(8)]
    darker = thumbnail_distance(sample(0), sample(1) * 0.8)
    reddish = thumbnail_distance(sample(0) * tint, sample(1))

    assert min(same) < 0 < max(same)
    assert min(darker, reddish) > 2 * max(map(abs, same))


# --------------------------------------------------------------------------------- pFID, pKID


class Corners(PatchFID):
    """The corner of each crop instead of its features."""

    crops = 4

    def embed(self, pixels):
        assert pixels.shape[1:] == (3, 299, 299)
        return pixels[:, :, 0, 0]


def test_crops_belong_to_the_image_and_are_not_resized():
    images = uniform(3, 3, 310, 320)
    metric = Corners()

    corners = metric.features(images, {"key": ["a", "b", "c"]})

    turned = {"key": ["c", "b", "a"]}
    assert torch.equal(metric.features(images.flip(0), turned), corners.flip(0))
    assert not torch.equal(metric.features(images, turned), corners)
    for image, places in zip((images * 255).round(), corners, strict=True):
        possible = image[:, :12, :22].flatten(1).T
        assert all((possible == corner).all(1).any() for corner in places)
    assert len(corners[0].unique(dim=0)) > 1  # not one place four times


def test_a_crop_has_the_features_of_an_image(inception):
    images = uniform(2, 3, 299, 299)
    patches = PatchFID()
    patches.load()
    whole = FID("torch-fidelity")
    whole.load()

    features = patches.features(images, keys(2))

    expected = whole.features(images, keys(2))
    torch.testing.assert_close(features[:, 2], expected, rtol=1e-5, atol=1e-5)


def test_the_numbers_are_those_of_all_crops():
    sr = gaussian(15, 8, 8, 0)
    hr = gaussian(15, 8, 8, 1)

    fid = PatchFID().distance(sr.view(5, 3, 8), hr.view(5, 3, 8))
    kid = PatchKID().distance(sr.view(5, 3, 8), hr.view(5, 3, 8))

    assert fid == frechet_distance(sr, hr)
    assert kid == polynomial_mmd(sr, hr)
