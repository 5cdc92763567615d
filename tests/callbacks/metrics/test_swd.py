"""SWD: the distance against scipy, what it distinguishes, its patches, its documented values."""

from __future__ import annotations

import pytest
import torch
from scipy.stats import wasserstein_distance
from torch.nn import functional

from callbacks.metrics.pixels import to_pixels
from callbacks.metrics.swd import SWD, blur, wasserstein
from degradations.bicubic import resize
from tests.make import as_tensor, assert_near, hr_and_lr, keys, normal, photograph


@pytest.mark.parametrize(("n", "m"), [(1, 1), (1, 30), (7, 7), (12, 30), (29, 8)])
def test_the_wasserstein_distance_is_that_of_scipy_for_any_two_sizes(n, m):
    a = normal(3, n).sort(1).values.double()
    b = normal(3, m, seed=1).sort(1).values.double()

    distances = wasserstein(a, b)

    for row in range(3):
        expected = wasserstein_distance(a[row], b[row])
        assert distances[row].item() == pytest.approx(expected, rel=1e-9)


def test_the_blur_is_a_binomial_kernel_with_mirrored_borders():
    x = normal(2, 3, 9, 8).double()

    blurred = blur(x)

    binomial = torch.tensor([1.0, 4, 6, 4, 1]).double() / 16
    kernel = torch.outer(binomial, binomial).expand(3, 1, 5, 5)
    padded = functional.pad(x, (2, 2, 2, 2), mode="reflect")
    assert_near(blurred, functional.conv2d(padded, kernel, groups=3), 1e-12)


@pytest.fixture(scope="module")
def photographs():
    """Four crops of 96x96 pixels."""
    crops = [photograph(96, 96, corner=corner) for corner in (60, 100, 140, 180)]
    return torch.cat([as_tensor(crop) for crop in crops])


def distances(sr, hr):
    metric = SWD(levels=3)
    features_of_sr = metric.features(sr, keys(4))
    features_of_hr = metric.features(hr, keys(4))
    return metric.distances(features_of_sr.double(), features_of_hr.double())


def shrunk_and_enlarged(images, factor):
    side = 96 // factor
    return resize(resize(images, (side, side)), (96, 96))


def test_missing_detail_counts_on_every_level_and_most_on_the_finest(photographs):
    unchanged = distances(photographs, photographs)
    half = distances(shrunk_and_enlarged(photographs, 2), photographs)
    quarter = distances(shrunk_and_enlarged(photographs, 4), photographs)

    assert unchanged == {"swd": 0, "swd_2": 0, "swd_3": 0}
    for level in unchanged:
        assert 0 < half[level] < quarter[level]
    # Halving removes the upper half of the frequencies, which only the finest level has.
    assert half["swd"] > 2 * half["swd_2"]
    assert half["swd_2"] > 2 * half["swd_3"]


def test_a_difference_in_brightness_alone_does_not_count(photographs):
    brighter = photographs.clamp(10 / 255)
    darker = brighter - 10 / 255

    values = distances(darker, brighter)

    assert values["swd"] < 0.05  # of the 10 levels


def test_places_of_patches_depend_on_the_images_key(photographs):
    """Then an output and its HR have patches at the same places, in each run."""
    metric = SWD(levels=3, patches=9)

    features = metric.features(photographs, {"key": ["a", "b", "c", "d"]})

    in_other_order = metric.features(photographs.flip(0), {"key": ["d", "c", "b", "a"]})
    with_other_keys = metric.features(photographs, {"key": ["d", "c", "b", "a"]})
    assert features.shape == (4, 3, 9, 49)  # image, level, patch, 7x7 pixels
    assert torch.equal(in_other_order, features.flip(0))
    assert not torch.equal(with_other_keys, features)


def test_patches_are_parts_of_the_image_minus_its_blur(photographs):
    [[[patch]]] = SWD(levels=1, patches=1).features(photographs[:1], keys(1))

    luma = to_pixels(photographs[:1], "y").float()
    at_all_places = functional.unfold(luma - blur(luma), 7)[0].T
    difference = (at_all_places - patch).abs().amax(1)
    assert difference.min() < 1e-3  # levels of 8 bits


@pytest.mark.parametrize(("scale", "value"), [(2, 2.05), (4, 3.19)])
def test_swd_of_bicubic_on_set5_is_that_of_the_documentation(data_root, scale, value):
    """Our own numbers, in docs/protocols.md, with the keys of a run."""
    metric = SWD()
    sr = []
    hr = []
    for name, image, lr in hr_and_lr(data_root / f"set5/x{scale}"):
        key = {"key": [f"set5/{name}"]}
        enlarged = resize(lr, image.shape[-2:])
        sr.append(metric.features(enlarged, key))
        hr.append(metric.features(image, key))

    distance = metric.distance(torch.cat(sr).double(), torch.cat(hr).double())

    assert distance == pytest.approx(value, abs=0.01)
