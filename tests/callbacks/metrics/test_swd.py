"""SWD: the distance against scipy, what it distinguishes, its patches, its documented values."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import wasserstein_distance
from torch.nn import functional

from callbacks.metrics.pixels import to_pixels
from callbacks.metrics.swd import SWD, blur, wasserstein
from degradations.bicubic import resize
from tests.make import as_tensor, keys, noisy, photograph, read


@settings(deadline=None, max_examples=50)
@given(n=st.integers(1, 30), m=st.integers(1, 30), seed=st.integers(0, 99))
def test_the_distance_is_scipys_for_any_two_sizes(n, m, seed):
    generator = torch.Generator().manual_seed(seed)
    a = torch.randn(3, n, generator=generator).double().sort(1).values
    b = torch.randn(3, m, generator=generator).double().sort(1).values

    distances = wasserstein(a, b)

    for row in range(3):
        expected = wasserstein_distance(a[row], b[row])
        assert distances[row].item() == pytest.approx(expected, rel=1e-9, abs=1e-12)


def test_the_blur_is_binomial_and_mirrors():
    x = torch.rand(2, 3, 9, 8, dtype=torch.float64)
    kernel = np.outer([1, 4, 6, 4, 1], [1, 4, 6, 4, 1]) / 256

    blurred = blur(x)

    padded = np.pad(x.numpy(), ((0, 0), (0, 0), (2, 2), (2, 2)), mode="reflect")
    windows = np.lib.stride_tricks.sliding_window_view(padded, (5, 5), axis=(2, 3))
    np.testing.assert_allclose(blurred, (windows * kernel).sum((-1, -2)))


def photographs():
    crops = [photograph(96, 96, corner=40 * n + 60) for n in range(4)]
    return torch.cat([as_tensor(crop) for crop in crops])


def distances(sr, hr):
    metric = SWD()
    features = [metric.features(x, keys(len(x))).double() for x in (sr, hr)]
    return metric.distances(*features)


def test_detail_that_is_missing_by_level():
    hr = photographs()
    assert distances(hr, hr) == {"swd": 0, "swd_2": 0, "swd_3": 0}

    twice = distances(resize(resize(hr, (48, 48)), (96, 96)), hr)
    four_times = distances(resize(resize(hr, (24, 24)), (96, 96)), hr)

    for name in ("swd", "swd_2", "swd_3"):
        assert 0 < twice[name] < four_times[name]
    assert twice["swd"] > 2 * twice["swd_2"] > 4 * twice["swd_3"]


def test_noise_is_too_much_detail_of_the_finest_level():
    hr = photographs()

    values = distances(noisy(hr, 0.1), hr)

    assert values["swd"] > values["swd_2"] > values["swd_3"] > 0


def test_colour_alone_does_not_matter():
    hr = photographs()

    assert distances((hr - 10 / 255).clamp(0), hr.clamp(10 / 255))["swd"] < 0.05


def test_places_of_patches_belong_to_the_image():
    metric = SWD(patches=9)
    images = photographs()

    features = metric.features(images, {"key": ["a", "b", "c", "d"]})

    assert features.shape == (4, 3, 9, 49)
    turned = metric.features(images.flip(0), {"key": ["d", "c", "b", "a"]})
    assert torch.equal(turned, features.flip(0))


def test_patches_are_pieces_of_the_image_minus_its_blur():
    images = photographs()

    patches = SWD(levels=1, patches=9).features(images, keys(4))[0, 0, 0]

    luma = to_pixels(images[:1], "y").float()
    pieces = functional.unfold(luma - blur(luma), 7)[0].T
    assert (pieces - patches).abs().amax(1).min() < 1e-3


@pytest.mark.parametrize(("scale", "value"), [(2, 2.05), (4, 3.19)])
def test_the_value_of_bicubic_on_set5(data_root, scale, value):
    """The numbers of docs/protocols.md, with the keys of a run."""
    metric = SWD()
    sr = []
    hr = []
    for path in sorted((data_root / f"set5/x{scale}/hr").iterdir()):
        image = read(path)
        enlarged = resize(read(data_root / f"set5/x{scale}/lr" / path.name), image.shape[-2:])
        key = {"key": [f"set5/{path.stem}"]}
        sr.append(metric.features(enlarged, key)[0].double())
        hr.append(metric.features(image, key)[0].double())

    assert metric.distance(torch.stack(sr), torch.stack(hr)) == pytest.approx(value, abs=0.01)
