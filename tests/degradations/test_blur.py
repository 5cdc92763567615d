"""Blurs: kernels compared with formulas, convolutions and sharpening with SciPy."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import ndimage, special, stats

from degradations.base import Canvas
from degradations.stages import blur
from degradations.stages.blur import (
    Blur,
    DefocusBlur,
    MotionBlur,
    Sinc,
    convolve,
    convolve_canvas,
    prepare_kernels,
)
from degradations.stages.sharpen import USM
from tests.make import as_tensor, assert_near, drawn, photograph, uniform

# ---------------------------------------------------------------------------------------- kernels


def covariance(variance_x, variance_y, angle):
    """A covariance matrix with these variances along axes that are turned by an angle."""
    c = math.cos(angle)
    s = math.sin(angle)
    axes = np.array([[c, -s], [s, c]])
    return axes @ np.diag([variance_x, variance_y]) @ axes.T


def kernel_by_hand(sigma_x, sigma_y, rotation, kernel_size, beta, family, sinc, cutoff):
    """A kernel pixel by pixel, in double precision; families 4 and 5 have a plateau."""
    inverse = np.linalg.inv(covariance(sigma_x**2, sigma_y**2, rotation))
    kernel = np.zeros((21, 21))
    for row in range(21):
        for column in range(21):
            d = np.array([column - 10, row - 10])
            if abs(d).max() > kernel_size // 2:
                continue
            r = max(math.hypot(*d), 1e-9)
            q = d @ inverse @ d
            if sinc:
                value = cutoff * special.j1(cutoff * r) / (2 * math.pi * r)
            elif family < 4:
                value = math.exp(-(q**beta) / 2)
            else:
                value = 1 / (1 + q**beta)
            kernel[row, column] = value
    return kernel / kernel.sum()


def test_kernels_of_all_families_are_the_formulas():
    params = drawn(Blur(), 300)

    kernels = Blur().psf(params)

    assert set(params["family"].tolist()) == set(range(6))
    assert params["sinc"].any()
    for n in range(0, 300, 5):  # each takes a while
        of_image = {name: values[n].item() for name, values in params.items()}
        assert_near(kernels[n].double(), torch.tensor(kernel_by_hand(**of_image)), 2e-6)


@pytest.mark.parametrize(
    "stage",
    [
        Blur(),
        Blur((21, 21), sigma=(0.01, 20.0), beta_generalized=(0.1, 99.0), beta_plateau=(1, 99)),
        Sinc(kernel_size=(3, 31), cutoff=(0.3, math.pi)),
        MotionBlur(length=(0.0, 30.0)),
        DefocusBlur(radius=(0.01, 9.0)),
    ],
    ids=["default", "extreme", "sinc", "motion", "defocus"],
)
def test_kernels_sum_to_one_and_their_outer_rings_are_cut_off_below_a_hundred_thousandth(stage):
    """So that an image keeps its brightness, and a wide but faint kernel takes no longer."""
    convolution = stage.prepare(drawn(stage, 2000))["convolution"]

    kernels = convolution["kernels"]
    half = kernels.shape[-1] // 2
    axis = torch.arange(-half, half + 1).abs()
    ring = torch.maximum(axis, axis.view(-1, 1))  # of each pixel around the centre
    is_cut_off = ring > convolution["radius"].view(-1, 1, 1)
    assert_near(kernels.sum((1, 2)), torch.ones(2000), 1e-5)
    assert (kernels.abs() * is_cut_off).sum((1, 2)).max() < 1.1e-5  # the .1 for rounding


def moments(kernel):
    """Mean (column, row) and covariance of a kernel with sum 1; columns right, rows down."""
    axis = np.arange(len(kernel)) - len(kernel) // 2
    columns, rows = np.meshgrid(axis, axis)
    places = np.stack([columns.ravel(), rows.ravel()])
    weights = kernel.numpy().ravel()
    mean = places @ weights
    return mean, np.cov(places, aweights=weights, bias=True)


def f64(value):
    return torch.tensor([value], dtype=torch.float64)


def test_motion_has_the_moments_of_a_line_whose_light_falls_off():
    """In proportion to 1 + d t, for t from -1 to 1 along a line of length L.

    The integrals of that give the mean d L / 6 and the variance L^2 (3 - d^2) / 36. Interpolation
    between pixels adds the mean of f (1 - f), for f from 0 to 1, to each axis: 1/6.
    """
    length = 30.0
    degrees = 37.0
    direction = 0.6

    # Up to 17 px from the centre: half of the length, and what interpolation needs.
    [kernel] = blur.motion(f64(length), f64(degrees), f64(direction), extent=17)

    mean, spread = moments(kernel)
    angle = -math.radians(degrees)  # rows go down
    towards = np.array([math.cos(angle), math.sin(angle)])
    line = covariance(length**2 * (3 - direction**2) / 36, 0, angle)
    np.testing.assert_allclose(mean, direction * length / 6 * towards, atol=1e-3)
    np.testing.assert_allclose(spread, line + np.eye(2) / 6, atol=0.05)


def test_motion_blur_draws_any_angle_and_direction():
    params = drawn(MotionBlur(), 10_000)

    angles = stats.uniform(loc=0, scale=180)
    directions = stats.uniform(loc=-1, scale=2)
    assert stats.kstest(params["angle"], angles.cdf).pvalue > 1e-3
    assert stats.kstest(params["direction"], directions.cdf).pvalue > 1e-3


@pytest.mark.parametrize("radius", [0.3, 0.8, 2.0, 9.99])
def test_a_disk_has_its_area_and_second_moment(radius):
    [covered] = blur.disk(f64(radius), extent=10)

    area = covered.sum()
    _, spread = moments(covered / area)
    assert area.item() == pytest.approx(math.pi * radius**2, rel=1e-12)
    if radius > 0.5:  # a smaller one lies in one pixel
        expected = radius**2 / 4 + 1 / 12  # variance of a disk, and of a square pixel
        np.testing.assert_allclose(spread, expected * np.eye(2), atol=0.04)


# ----------------------------------------------------------------------------------- convolutions


def asymmetric(radius):
    """A kernel with sum 1 and most of its mass in one corner."""
    side = 2 * radius + 1
    kernel = uniform(side, side)
    kernel[0, 1] += side
    return kernel / kernel.sum()


def convolved(image, kernel):
    """By the stages' way for the size and the kernel."""
    params = prepare_kernels(kernel[None])
    flipped = params["kernels"][0]
    return convolve(image, flipped, params["radius"].item(), params["separable"].item())


def assert_convolved(result, image, kernel):
    """As by SciPy: convolved, not correlated, with mirrored borders."""
    kernels = kernel.double()[None, None].numpy()
    expected = ndimage.convolve(image.double().numpy(), kernels, mode="mirror")
    np.testing.assert_allclose(result, expected, rtol=0, atol=5e-6)


@pytest.mark.parametrize("way", ["_by_opencv", "_by_fourier", "_by_rows_and_columns"])
@pytest.mark.parametrize("size", [(40, 50), (4, 7), (70, 1)])
def test_convolution_by_opencv_by_fourier_and_by_rows_and_columns_equals_scipys(way, size):
    """Sizes and the kernel decide which is used. They correlate, so the kernel is flipped."""
    image = uniform(1, 3, *size)
    kernel = asymmetric(radius=6)
    if way == "_by_rows_and_columns":
        kernel = torch.outer(kernel.sum(1), kernel.sum(0))

    result = getattr(blur, way)(image[0], kernel.flip(0, 1))

    assert_convolved(result[None], image, kernel)


# Up to a radius of 5 by OpenCV; above, on large images, by Fourier.
@pytest.mark.parametrize(("radius", "size"), [(2, (21, 21)), (6, (231, 31)), (9, (231, 51))])
def test_a_bright_point_becomes_the_kernel(radius, size):
    top = size[0] // 2 - radius
    left = size[1] // 2 - radius
    side = 2 * radius + 1
    image = torch.zeros(1, 3, *size)
    image[..., top + radius, left + radius] = 1
    kernel = asymmetric(radius)

    alone = convolved(image, kernel)
    on_canvas = convolve_canvas(Canvas.of(image), kernel[None]).pixels

    expected = torch.zeros(1, 3, *size)
    expected[..., top : top + side, left : left + side] = kernel
    assert_near(alone, expected, 1e-6)
    assert_near(on_canvas, expected, 1e-6)


def test_an_image_is_convolved_with_a_kernel_whose_centre_is_0():
    """A kernel is a column times a row if these, divided by its centre, give it: here by 0."""
    image = uniform(1, 3, 20, 30)
    hole = torch.full((3, 3), 1 / 8)
    hole[1, 1] = 0

    assert_convolved(convolved(image, hole), image, hole)


# ------------------------------------------------------------------------------------- sharpening


def gaussian(plane, side):
    """OpenCV's, with the deviation that it takes for a kernel of this side."""
    sigma = 0.3 * ((side - 1) * 0.5 - 1) + 0.8
    radius = side // 2
    return ndimage.gaussian_filter(plane, sigma, radius=radius, mode="mirror")


def sharpened(plane, weight, side, threshold):
    """The formula that Real-ESRGAN released, in double precision."""
    residual = plane - gaussian(plane, side)
    mask = np.abs(residual) * 255 > threshold
    soft = gaussian(mask.astype(float), side)
    sharp = np.clip(plane + weight * residual, 0, 1)
    return soft * sharp + (1 - soft) * plane


@pytest.mark.parametrize("size", [(96, 112), (61, 37), (1, 40), (1, 1)])
@pytest.mark.parametrize(
    ("stage", "settings"),
    [
        (USM(), {"weight": 0.5, "side": 51, "threshold": 10.0}),
        (USM(weight=2.0, radius=9, threshold=2.5), {"weight": 2.0, "side": 9, "threshold": 2.5}),
    ],
    ids=["default", "other"],
)
def test_usm_is_the_released_formula(size, stage, settings):
    """An even radius, such as the default of 50, is a Gaussian of the next odd side, 51."""
    image = as_tensor(photograph(*size))

    alone = stage(image, {})
    on_canvas = stage.on_canvas(Canvas.of(image), {}).pixels

    for n, plane in enumerate(image[0].double().numpy()):
        expected = sharpened(plane, **settings)
        np.testing.assert_allclose(alone[0, n], expected, rtol=0, atol=2e-6)
        np.testing.assert_allclose(on_canvas[0, n], expected, rtol=0, atol=2e-6)
