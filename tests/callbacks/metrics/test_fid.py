"""FID, KID and their kinds: against formulas, and the libraries given the same weights."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.linalg import sqrtm
from torch_fidelity import calculate_metrics
from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

from callbacks.metrics.fid import (
    FID,
    KID,
    KIDThumb,
    PatchFID,
    PatchKID,
    bicubic,
    frechet_distance,
    kernel_distance,
    polynomial_mmd,
)
from tests.callbacks.random_inception import inception, inception_file, small_inception
from tests.callbacks.tiny import Images, loader, validate
from tests.make import keys, normal, smooth, uniform

__all__ = ["inception", "inception_file", "small_inception"]
pytestmark = pytest.mark.filterwarnings("ignore:Matrix is singular")  # as tested here


def gaussian(count, size, rank, seed):
    """Features (count, size) of a normal distribution in a subspace."""
    mixing = normal(rank, size, seed=seed).double()
    shift = normal(size, seed=seed + 1).double()
    return normal(count, rank, seed=seed + 2).double() @ mixing + shift


def pixels(height=70, width=90, count=2):
    return (uniform(count, 3, height, width) * 255).round().byte()


# -------------------------------------------------------------------------------------------- FID


def by_scipy(a, b):
    """The formula as in pytorch-fid and clean-fid, by the root of a matrix."""
    covariance_a = np.cov(a, rowvar=False)
    covariance_b = np.cov(b, rowvar=False)
    product = covariance_a @ covariance_b
    root = np.trace(sqrtm(product)).real
    if not np.isfinite(root):  # SciPy 1.13 finds none of a singular matrix
        root = np.sqrt(np.linalg.eigvals(product).real.clip(min=0)).sum()
    means = (a.mean(0) - b.mean(0)).square().sum().item()
    return means + np.trace(covariance_a) + np.trace(covariance_b) - 2 * root


@pytest.mark.parametrize(("n", "m"), [(2, 2), (2, 90), (20, 90), (90, 90)])
@pytest.mark.parametrize(("rank", "other_rank"), [(1, 1), (7, 32), (32, 32)])
def test_the_distance_is_scipys_also_for_singular_covariances(n, m, rank, other_rank):
    a = gaussian(n, 32, rank, seed=0)
    b = gaussian(m, 32, other_rank, seed=10)

    distance = frechet_distance(a, b)

    assert distance == pytest.approx(by_scipy(a, b), rel=1e-5)


@pytest.mark.parametrize("size", [(70, 90), (299, 299), (301, 1200)])
def test_clean_fids_resize_is_pillows_in_float(size):
    image = pixels(*size, count=1).float()

    resized = bicubic(image)

    for plane, ours in zip(image[0].numpy(), resized[0], strict=True):
        theirs = Image.fromarray(plane).resize((299, 299), Image.Resampling.BICUBIC)
        np.testing.assert_allclose(ours, np.asarray(theirs).clip(0, 255), atol=1e-4)  # of 255


def test_the_network_is_torch_fidelitys(inception):
    images = pixels(count=3)
    metric = FID("torch-fidelity")
    metric.load()

    ours = metric.features(images / 255, keys(3))

    [theirs] = FeatureExtractorInceptionV3("theirs", ["2048"], str(inception))(images)
    assert theirs.std() > 0.01  # random, but not constant
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


def test_levels_are_rounded_to_the_nearest(inception):
    """torchmetrics' `normalize=True` truncates instead."""
    metric = FID()
    metric.load()
    images = pixels(40, 40)
    brighter = (images + 0.4).clamp(0, 255)

    features = metric.features(brighter / 255, keys(2))

    assert torch.equal(features, metric.features(images / 255, keys(2)))


# -------------------------------------------------------------------------------------------- KID


def mmd_by_hand(a, b):
    def kernel(x, y):
        return (x @ y.T / x.shape[1] + 1) ** 3

    def mean_of_pairs(x):
        values = kernel(x, x).fill_diagonal_(0)
        return values.sum() / (len(x) * (len(x) - 1))

    return mean_of_pairs(a) + mean_of_pairs(b) - 2 * kernel(a, b).mean()


@pytest.mark.parametrize(("n", "m"), [(4, 9), (2, 2)])
def test_the_estimate_of_kid_is_the_papers(n, m):
    a = gaussian(n, 5, 5, seed=0)
    b = gaussian(m, 5, 5, seed=10)

    distance = polynomial_mmd(a, b)

    assert distance == pytest.approx(mmd_by_hand(a, b).item(), rel=1e-10)


@pytest.mark.parametrize("size", [10, 5])
def test_paired_kernel_distance_of_equal_sets_is_0_and_unpaired_is_below(size):
    x = normal(10, 3).double()

    # Of 4 subsets. Within a set, no image is compared with itself; between both, only if unpaired.
    unpaired, _ = kernel_distance(x, x, 4, size)
    paired, _ = kernel_distance(x, x, 4, size, paired=True)

    assert unpaired < -0.1
    assert paired == pytest.approx(0, abs=1e-9)


# Up to 5000 images all pairs have their kernels computed once; beyond, each subset its own.
@pytest.mark.parametrize("count", [30, pytest.param(5001, marks=pytest.mark.slow)])
def test_kid_of_subsets_is_near_that_of_all_pairs(count):
    a = gaussian(count, 4, 4, seed=0)
    b = gaussian(30, 4, 4, seed=10)

    mean, deviation = kernel_distance(a, b, subsets=5, size=10)

    assert (mean, deviation) == kernel_distance(a, b, subsets=5, size=10)  # the seed is its own
    assert deviation > 0
    assert abs(mean - polynomial_mmd(a, b)) < 4 * deviation


@pytest.mark.slow
def test_kid_is_torch_fidelitys_with_the_same_subsets(inception):
    sr = pixels(count=6)
    hr = (pixels(count=8)[1:] * 0.8).byte()
    metric = KID("torch-fidelity")
    metric.load()

    of_sr = metric.features(sr / 255, keys(6)).double()
    of_hr = metric.features(hr / 255, keys(7)).double()
    mean, deviation = kernel_distance(of_sr, of_hr, subsets=4, size=5)

    theirs = calculate_metrics(
        input1=list(sr),
        input2=list(hr),
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


def test_metrics_that_share_the_networks_work_have_their_own_numbers(small_inception, tmp_path):
    alone = FID()
    beside = FID()
    data = loader(Images(2))

    validate(tmp_path, KID("torch-fidelity"), beside, data=data)

    validate(tmp_path, alone, data=data)
    assert beside.records == alone.records


# -------------------------------------------------------------------------------------- KID-thumb


def test_thumbnails_are_means_of_areas():
    images = smooth(2, (32, 32), cell=8)

    thumbnails = KIDThumb().features(images, keys(2)).view(2, 3, 8, 8)

    levels = (images * 255).round() / 255
    # Row 3 and column 5 of 8: 4x4 of 32 pixels; in [-1, 1].
    expected = levels[1, 2, 12:16, 20:24].mean() * 2 - 1
    torch.testing.assert_close(thumbnails[1, 2, 3, 5], expected)


# --------------------------------------------------------------------------------- pFID, pKID


class Corners(PatchFID):
    """The corner of each crop instead of its features."""

    crops = 4

    def embed(self, pixels):
        assert pixels.shape[1:] == (3, 299, 299)
        return pixels[:, :, 0, 0]


def test_crops_belong_to_the_image_and_are_not_resized():
    images = uniform(3, 3, 310, 320)
    in_order = {"key": ["a", "b", "c"]}
    turned = {"key": ["c", "b", "a"]}
    metric = Corners()

    corners = metric.features(images, in_order)

    assert torch.equal(metric.features(images.flip(0), turned), corners.flip(0))
    assert not torch.equal(metric.features(images, turned), corners)
    assert len(corners[0].unique(dim=0)) > 1  # not one place four times
    # A crop of 299 pixels begins in the first 12 of 310 rows and 22 of 320 columns.
    possible = (images[0, :, :12, :22] * 255).round().flatten(1).T
    for corner in corners[0]:
        assert (possible == corner).all(1).any()


def test_a_crop_has_the_features_of_an_image(inception):
    images = uniform(2, 3, 299, 299)
    patches = PatchFID()
    patches.load()
    whole = FID("torch-fidelity")
    whole.load()

    features = patches.features(images, keys(2))

    expected = whole.features(images, keys(2))
    # Any crop of 299 pixels is the whole image.
    torch.testing.assert_close(features[:, 2], expected, rtol=1e-5, atol=1e-5)


def test_pfid_and_pkid_are_those_of_the_crops_of_all_images():
    sr = gaussian(15, 8, 8, seed=0)
    hr = gaussian(15, 8, 8, seed=10)

    fid = PatchFID().distance(sr.view(5, 3, 8), hr.view(5, 3, 8))
    kid = PatchKID().distance(sr.view(5, 3, 8), hr.view(5, 3, 8))

    assert fid == frechet_distance(sr, hr)
    assert kid == polynomial_mmd(sr, hr)
