"""FID, KID and their kinds: against formulas, and the libraries given the same weights."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.linalg import sqrtm
from torch.utils.data import Dataset
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
from tests.make import assert_near, keys, normal, smooth, uniform

__all__ = ["inception", "inception_file", "small_inception"]
pytestmark = pytest.mark.filterwarnings("ignore:Matrix is singular")  # as tested here


def gaussian(count, width, rank, seed):
    """Features (count, width) of a normal distribution in a subspace of a rank."""
    mixing = normal(rank, width, seed=seed).double()
    shift = normal(width, seed=seed + 1).double()
    return normal(count, rank, seed=seed + 2).double() @ mixing + shift


def pixels(count, height=70, width=90):
    """Random images of 8 bits."""
    return (uniform(count, 3, height, width) * 255).round().byte()


# -------------------------------------------------------------------------------------------- FID


def by_scipy(a, b):
    """|mean a - mean b|^2 + tr(A + B - 2 (A B)^1/2), of covariances A and B, as pytorch-fid."""
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
def test_the_frechet_distance_equals_scipys_also_for_singular_covariances(n, m, rank, other_rank):
    """They are singular if images or rank are fewer than the 32 features."""
    a = gaussian(n, width=32, rank=rank, seed=0)
    b = gaussian(m, width=32, rank=other_rank, seed=10)

    distance = frechet_distance(a, b)

    assert distance == pytest.approx(by_scipy(a, b), rel=1e-5)


@pytest.mark.parametrize("size", [(70, 90), (299, 299), (301, 1200)])  # smaller, equal, larger
def test_images_are_resized_as_by_clean_fid_with_pillow_in_float(size):
    image = pixels(1, *size).float()

    resized = bicubic(image)

    for plane, ours in zip(image[0].numpy(), resized[0], strict=True):
        theirs = Image.fromarray(plane).resize((299, 299), Image.Resampling.BICUBIC)
        np.testing.assert_allclose(ours, np.asarray(theirs).clip(0, 255), atol=1e-4)  # of 255


def test_features_are_those_of_torch_fidelity_with_the_same_weights(inception):
    images = pixels(count=3)
    metric = FID("torch-fidelity")
    metric.load()

    ours = metric.features(images / 255, keys(3))

    [theirs] = FeatureExtractorInceptionV3("theirs", ["2048"], str(inception))(images)
    assert theirs.std() > 0.01  # random, but not constant
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


def test_fid_rounds_pixels_to_the_nearest_level(inception):
    """As saved files have them; torchmetrics' `normalize=True` truncates instead."""
    metric = FID()
    metric.load()
    images = pixels(2, height=40, width=40)
    offsets = 0.8 * uniform(2, 3, 40, 40, seed=1) - 0.4  # less than half a level, up or down
    shifted = (images + offsets).clamp(0, 255)

    features = metric.features(shifted / 255, keys(2))

    assert torch.equal(features, metric.features(images / 255, keys(2)))


# -------------------------------------------------------------------------------------------- KID


def mmd_by_hand(a, b):
    """KID's unbiased estimate: mean k(a, a') + mean k(b, b') - 2 mean k(a, b), k cubic."""

    def kernel(x, y):
        return (x @ y.T / x.shape[1] + 1) ** 3

    def mean_of_pairs(x):
        values = kernel(x, x).fill_diagonal_(0)
        return values.sum() / (len(x) * (len(x) - 1))

    return mean_of_pairs(a) + mean_of_pairs(b) - 2 * kernel(a, b).mean()


@pytest.mark.parametrize(("n", "m"), [(4, 9), (2, 2)])
def test_the_estimate_of_kid_is_the_papers(n, m):
    a = gaussian(n, width=5, rank=5, seed=0)
    b = gaussian(m, width=5, rank=5, seed=10)

    distance = polynomial_mmd(a, b)

    assert distance == pytest.approx(mmd_by_hand(a, b).item(), rel=1e-10)


@pytest.mark.parametrize("size", [10, 5], ids=["whole sets", "subsets"])
def test_kernel_distance_of_a_set_to_itself_is_0_if_paired_and_else_negative(size):
    """Of mean k(a, a') + mean k(b, b') - 2 mean k(a, b), only the last compares a row with itself.

    So it is with an output and its own HR, which are alike: the distance is too small. `paired`
    leaves these pairs out.
    """
    x = normal(10, 3).double()

    unpaired, _ = kernel_distance(x, x, subsets=4, size=size)
    paired, _ = kernel_distance(x, x, subsets=4, size=size, paired=True)

    assert unpaired < -0.1
    assert paired == pytest.approx(0, abs=1e-9)


# Above 5000 images, the kernels of each subset are computed instead of those of all pairs once.
@pytest.mark.parametrize("count", [30, pytest.param(5001, marks=pytest.mark.slow)])
def test_kid_of_random_subsets_is_reproducible_and_near_that_of_all_pairs(count):
    a = gaussian(count, width=4, rank=4, seed=0)
    b = gaussian(30, width=4, rank=4, seed=10)

    mean, deviation = kernel_distance(a, b, subsets=5, size=10)

    assert (mean, deviation) == kernel_distance(a, b, subsets=5, size=10)
    assert deviation > 0
    # The deviation is that of a single subset; the mean of five deviates by less.
    assert abs(mean - polynomial_mmd(a, b)) < 4 * deviation


class Levels(Dataset):
    """Images as torch-fidelity takes them: (3, H, W) uint8 of a Dataset."""

    def __init__(self, images):
        self.images = images

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        return self.images[index]


@pytest.mark.slow
def test_kid_is_torch_fidelitys_with_the_same_subsets(inception):
    sr = pixels(count=6)
    hr = (255 - pixels(count=7)) // 2  # other images, and darker
    metric = KID("torch-fidelity")
    metric.load()

    of_sr = metric.features(sr / 255, keys(6)).double()
    of_hr = metric.features(hr / 255, keys(7)).double()
    mean, deviation = kernel_distance(of_sr, of_hr, subsets=4, size=5)

    theirs = calculate_metrics(
        input1=Levels(sr),
        input2=Levels(hr),
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


def test_fid_is_the_same_beside_kid_of_another_preset(small_inception, tmp_path):
    """They share the network, but not its features: images are resized otherwise."""
    alone = FID("clean-fid")
    beside_kid = FID("clean-fid")
    data = loader(Images(count=2))

    validate(tmp_path, KID("torch-fidelity"), beside_kid, data=data)

    validate(tmp_path, alone, data=data)
    assert beside_kid.records == alone.records


# -------------------------------------------------------------------------------------- KID-thumb


def test_a_pixel_of_a_thumbnail_is_the_mean_of_its_area():
    images = smooth(2, (32, 32), cell=8)

    thumbnails = KIDThumb().features(images, keys(2)).view(2, 3, 8, 8)

    levels = (images * 255).round() / 255
    area = levels[:, :, 12:16, 20:24]  # the 4x4 pixels of a thumbnail's row 3 and column 5
    expected = area.mean((2, 3)) * 2 - 1  # thumbnails are in [-1, 1]
    torch.testing.assert_close(thumbnails[:, :, 3, 5], expected)


# --------------------------------------------------------------------------------- pFID, pKID


class Corners(PatchFID):
    """The first pixel of each of four crops instead of its features."""

    crops = 4

    def embed(self, pixels):
        assert pixels.shape[1:] == (3, 299, 299)
        return pixels[:, :, 0, 0]


def test_places_of_crops_depend_on_the_images_key_alone():
    """Then an output and its HR are cropped at the same places, in each run."""
    images = uniform(3, 3, 310, 320)
    metric = Corners()

    corners = metric.features(images, {"key": ["a", "b", "c"]})

    in_other_order = metric.features(images.flip(0), {"key": ["c", "b", "a"]})
    with_other_keys = metric.features(images, {"key": ["c", "b", "a"]})
    of_other_pixels = metric.features(1 - images, {"key": ["a", "b", "c"]})
    assert torch.equal(in_other_order, corners.flip(0))
    assert_near(of_other_pixels, 255 - corners, within=1)  # both are rounded to levels
    assert not torch.equal(with_other_keys, corners)


def test_crops_are_at_several_places_and_not_resized():
    images = uniform(1, 3, 310, 320)

    [corners] = Corners().features(images, keys(1))

    assert len(corners.unique(dim=0)) > 1
    # Its first pixel is one of the image, unless it is resized; a crop of 299x299 pixels begins in
    # one of 310 - 299 + 1 = 12 rows and 320 - 299 + 1 = 22 columns.
    possible = (images[0, :, :12, :22] * 255).round().flatten(1).T
    for corner in corners:
        assert corner.tolist() in possible.tolist()


def test_a_crop_has_the_features_of_an_image_of_its_size(inception):
    images = uniform(2, 3, 299, 299)  # each crop is the whole image
    of_crops = PatchFID()
    of_crops.load()
    of_images = FID("torch-fidelity")
    of_images.load()

    features = of_crops.features(images, keys(2))

    expected = of_images.features(images, keys(2))
    torch.testing.assert_close(features[:, 2], expected, rtol=1e-5, atol=1e-5)  # of the third crop


def test_pfid_and_pkid_are_those_of_the_crops_of_all_images():
    sr = gaussian(5 * 3, width=8, rank=8, seed=0)  # 5 images, 3 crops
    hr = gaussian(5 * 3, width=8, rank=8, seed=10)

    fid = PatchFID().distance(sr.view(5, 3, 8), hr.view(5, 3, 8))
    kid = PatchKID().distance(sr.view(5, 3, 8), hr.view(5, 3, 8))

    assert fid == frechet_distance(sr, hr)
    assert kid == polynomial_mmd(sr, hr)
