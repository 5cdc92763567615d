"""Blurs: kernels compared with formulas, convolutions and sharpening with SciPy."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import integrate, ndimage, special, stats

from degradations.base import Canvas
from degradations.draws import Draws, to_device
from degradations.stages import blur
from degradations.stages.blur import (
    Blur,
    DefocusBlur,
    KernelStage,
    MotionBlur,
    Sinc,
    convolve,
    convolve_canvas,
    prepare_kernels,
)
from degradations.stages.sharpen import USM
from tests.make import as_tensor, photograph


class Corner(KernelStage):
    """A kernel without symmetry."""

    def draw(self, draws, shape):
        return {"weight": np.ones(len(draws.seeds()))}

    def psf(self, params):
        psf = 2.0 ** -torch.arange(1.0, 10).view(3, 3)
        return (psf / psf.sum()).expand(len(params["weight"]), 3, 3)


def draw(stage, count):
    return stage.draw(Draws(np.arange(count)), torch.Size((count, 3, 64, 64)))


def f64(value):
    return torch.tensor([value], dtype=torch.float64)


def rotated(x, y, angle):
    """A covariance with `x` and `y` on its axes."""
    c = math.cos(angle)
    s = math.sin(angle)
    axes = np.array([[c, -s], [s, c]])
    return axes @ np.diag([x, y]) @ axes.T


def moments(kernel):
    """Mean (column, row) and covariance of a kernel with sum 1; columns right, rows down."""
    axis = np.arange(len(kernel)) - len(kernel) // 2
    weights = kernel.numpy().reshape(-1, 1)
    places = np.stack(np.meshgrid(axis, axis), -1).reshape(-1, 2)
    mean = (weights * places).sum(0)
    return mean, (places - mean).T @ (weights * (places - mean))


# ------------------------------------------------------------------------------- drawn parameters


def test_motion_blur_draws_any_angle_and_direction():
    params = draw(MotionBlur((2.0, 9.0)), 10_000)

    assert stats.kstest(params["angle"], stats.uniform(0, 180).cdf).pvalue > 1e-3
    assert stats.kstest(params["direction"], stats.uniform(-1, 2).cdf).pvalue > 1e-3


# ---------------------------------------------------------------------------------------- kernels


def by_hand(params, i):
    """The kernel of image `i`, pixel by pixel in double precision."""
    variances = params["sigma_x"][i] ** 2, params["sigma_y"][i] ** 2
    inverse = np.linalg.inv(rotated(*variances, params["rotation"][i]))
    half = params["kernel_size"][i] // 2
    beta = params["beta"][i]
    w = params["cutoff"][i]
    kernel = np.zeros((21, 21))
    for y in range(-half, half + 1):
        for x in range(-half, half + 1):
            q = np.array([x, y]) @ inverse @ np.array([x, y])
            r = math.hypot(x, y)
            if params["sinc"][i]:
                value = w * special.j1(w * r) / (2 * math.pi * r) if r else w**2 / (4 * math.pi)
            elif params["family"][i] < 4:
                value = math.exp(-(q**beta) / 2)
            else:
                value = 1 / (1 + q**beta)
            kernel[10 + y, 10 + x] = value
    return kernel / kernel.sum()


def test_kernels_of_all_families_are_the_formulas():
    params = draw(Blur(), 10_000)
    sinc = np.flatnonzero(params["sinc"])[:5]
    families = [np.flatnonzero((params["family"] == f) & ~params["sinc"])[:3] for f in range(6)]
    chosen = np.concatenate([*families, sinc])
    params = {name: values[chosen] for name, values in params.items()}

    psf = Blur().psf(to_device(params, len(chosen), torch.device("cpu")))

    for i, kernel in enumerate(psf):
        np.testing.assert_allclose(kernel, by_hand(params, i), rtol=0, atol=2e-6)


@pytest.mark.parametrize(
    "stage",
    [
        Blur(),
        Blur((21, 21), sigma=(0.05, 20.0), beta_generalized=(0.1, 20.0), sinc=0.0),
        Sinc((3, 31), (0.3, math.pi)),
        MotionBlur((0.0, 30.0)),
        DefocusBlur((0.01, 9.0)),
        Corner(),
    ],
    ids=lambda stage: type(stage).__name__,
)
def test_kernels_sum_to_one_and_nothing_is_cut_off(stage):
    params = to_device(draw(stage, 2000), 2000, torch.device("cpu"))

    prepared = stage.prepare(params)["convolution"]

    kernels = prepared["kernels"]
    torch.testing.assert_close(kernels.sum((1, 2)), torch.ones(2000), rtol=0, atol=1e-5)
    half = kernels.shape[-1] // 2
    axis = (torch.arange(2 * half + 1) - half).abs()
    outside = torch.maximum(axis, axis.view(-1, 1)) > prepared["radius"].view(-1, 1, 1)
    assert (kernels.abs() * outside).sum((1, 2)).max() < 1.1e-5


@pytest.mark.parametrize("plateau", [False, True])
def test_hostile_parameters_give_a_point_not_nan(plateau):
    squared = blur.squared_distance(*torch.tensor([[1e-3], [1e-3], [0.3]]), 10)

    bell = blur.bell(squared, torch.tensor([100.0]), torch.tensor([plateau]))

    kernel = blur.normalized(bell)[0]
    assert kernel[10, 10] == 1
    assert kernel.sum() == 1


def test_motion_has_the_covariance_of_a_line():
    """L^2 / 12 along it, and 1/6 on either axis from the interpolation."""
    kernel = blur.motion(f64(30.0), f64(37.0), f64(0.0), 17)[0]

    mean, covariance = moments(kernel)
    expected = rotated(30.0**2 / 12, 0, -math.radians(37.0)) + np.eye(2) / 6  # rows go down
    np.testing.assert_allclose(mean, 0, atol=1e-9)
    np.testing.assert_allclose(covariance, expected, atol=0.05)


@pytest.mark.parametrize("angle", [0.0, 30.0, 100.0, 250.0])
def test_motion_has_kornias_conventions(angle):
    """Kornia's kernels are for correlations, ours are flipped: the image of a point."""
    from kornia.filters import get_motion_kernel2d

    def likeness(a, b):
        return ((a * b).sum() / (a.norm() * b.norm())).item()

    theirs = get_motion_kernel2d(15, angle, 0.8, mode="bilinear")[0].double().flip(0, 1)
    ours = blur.motion(f64(14.0), f64(angle), f64(0.8), 7)[0]

    assert likeness(ours, theirs) > 0.93
    assert likeness(ours, theirs.flip(0, 1)) < 0.9


@pytest.mark.parametrize("radius", [0.3, 0.8, 2.0, 4.7, 9.99])
def test_a_disk_has_its_area_and_second_moment(radius):
    covered = blur.disk(f64(radius), 10)[0]

    assert covered.sum().item() == pytest.approx(math.pi * radius**2, rel=1e-12)
    if radius > 0.5:
        # Of the disk and of the square pixel.
        expected = (radius**2 / 4 + 1 / 12) * np.eye(2)
        np.testing.assert_allclose(moments(covered / covered.sum())[1], expected, atol=0.04)


def test_a_disk_covers_a_part_of_a_pixel():
    covered = blur.disk(f64(1.0), 2)[0]

    right = integrate.quad(lambda x: 2 * min(0.5, math.sqrt(1 - x * x)), 0.5, 1)[0]
    assert covered[2, 2].item() == pytest.approx(1)
    assert covered[2, 3].item() == pytest.approx(right, abs=1e-9)
    assert covered[3, 2].item() == pytest.approx(right, abs=1e-9)
    assert covered[2, 4].item() == 0


# ----------------------------------------------------------------------------------- convolutions


def asymmetric(radius):
    """A kernel with sum 1 and most of its mass in one corner."""
    side = 2 * radius + 1
    values = np.random.default_rng(0).random((side, side))
    values[0, 1] += side
    return torch.from_numpy(values / values.sum()).float()


def random_image(*size):
    return torch.from_numpy(np.random.default_rng(1).random((1, 3, *size))).float()


def convolved(x, kernel):
    params = prepare_kernels(kernel[None])
    return convolve(x, params["kernels"][0], params["radius"].item(), params["separable"].item())


def assert_convolved(y, x, kernel):
    """Convolved, not correlated, with mirrored borders."""
    for plane, result in zip(x[0].double().numpy(), y[0], strict=True):
        expected = ndimage.convolve(plane, kernel.double().numpy(), mode="mirror")
        np.testing.assert_allclose(result, expected, rtol=0, atol=5e-6)


@pytest.mark.parametrize("way", ["_by_opencv", "_by_fourier", "_by_rows_and_columns"])
@pytest.mark.parametrize("size", [(40, 50), (4, 7), (70, 1)])
def test_each_way_of_convolving_at_any_size(way, size):
    kernel = asymmetric(6)
    if way == "_by_rows_and_columns":
        kernel = kernel.sum(1, keepdim=True) * kernel.sum(0, keepdim=True)
    x = random_image(*size)

    y = getattr(blur, way)(x[0], kernel.flip(0, 1))

    assert_convolved(y[None], x, kernel)


@pytest.mark.parametrize(("radius", "size"), [(2, (21, 21)), (6, (231, 31)), (9, (231, 51))])
def test_a_bright_point_becomes_the_kernel(radius, size):
    row = size[0] // 2
    column = size[1] // 2
    x = torch.zeros(1, 3, *size)
    x[..., row, column] = 1
    kernel = asymmetric(radius)

    alone = convolved(x, kernel)
    on_canvas = convolve_canvas(Canvas.of(x), kernel[None]).pixels

    expected = torch.zeros(1, 3, *size)
    rows = slice(row - radius, row + radius + 1)
    expected[..., rows, column - radius : column + radius + 1] = kernel
    torch.testing.assert_close(alone, expected, rtol=0, atol=1e-6)
    torch.testing.assert_close(on_canvas, expected, rtol=0, atol=1e-6)


def test_separable_kernels_are_known():
    sigma_x = torch.tensor([1.5, 1.5, 1.5, 1.5])
    sigma_y = torch.tensor([1.5, 0.8, 0.8, 1.5])
    rotation = torch.tensor([0.0, 0.0, 0.6, 0.0])
    beta = torch.tensor([1.0, 1.0, 1.0, 0.7])
    squared = blur.squared_distance(sigma_x, sigma_y, rotation, 6)

    params = prepare_kernels(blur.normalized(blur.bell(squared, beta, beta > 9)))

    assert params["separable"].tolist() == [True, True, False, False]


def test_a_kernel_with_a_hole_is_not_divided_by_its_centre():
    hole = torch.full((3, 3), 1 / 8)
    hole[1, 1] = 0
    x = random_image(20, 30)

    assert_convolved(convolved(x, hole), x, hole)


# ------------------------------------------------------------------------------------- sharpening


def gaussian(plane, side):
    sigma = 0.3 * ((side - 1) * 0.5 - 1) + 0.8
    taps = np.exp(-((np.arange(side) - side // 2) ** 2) / (2 * sigma**2))
    for axis in (0, 1):
        plane = ndimage.correlate1d(plane, taps / taps.sum(), axis, mode="mirror")
    return plane


def sharpened(plane, weight, side, threshold):
    """The formula that Real-ESRGAN released, in double precision."""
    residual = plane - gaussian(plane, side)
    soft = gaussian((np.abs(residual) * 255 > threshold).astype(float), side)
    sharp = np.clip(plane + weight * residual, 0, 1)
    return soft * sharp + (1 - soft) * plane


@pytest.mark.parametrize("size", [(96, 112), (61, 37), (1, 40), (1, 1)])
@pytest.mark.parametrize(
    ("stage", "settings"), [(USM(), (0.5, 51, 10.0)), (USM(2.0, 9, 2.5), (2.0, 9, 2.5))]
)
def test_usm_is_the_released_formula(size, stage, settings):
    x = as_tensor(photograph(*size))

    y = stage(x, {})
    on_canvas = stage.on_canvas(Canvas.of(x), {}).pixels

    planes = x[0].double().numpy()
    expected = np.stack([sharpened(plane, *settings) for plane in planes])
    np.testing.assert_allclose(y[0], expected, rtol=0, atol=2e-6)
    np.testing.assert_allclose(on_canvas[0], expected, rtol=0, atol=2e-6)
