"""Ways to convolve, compared with SciPy in double precision."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import ndimage

from degradations.base import Canvas
from degradations.stages import blur as kernels
from degradations.stages.blur import convolve, convolve_canvas, prepare_kernels


def psf(radius, seed=0):
    """Return an asymmetric kernel with sum 1 and most of its mass in one corner."""
    side = 2 * radius + 1
    values = np.random.default_rng(seed).random((side, side))
    values[0, 1] += side
    return torch.from_numpy(values / values.sum()).float()[None]


def make_image(size, seed=1):
    return torch.from_numpy(np.random.default_rng(seed).random((1, 3, *size))).float()


def reference(x, kernel):
    """Convolve (not correlate) with mirrored borders."""
    x, kernel = x[0].double().numpy(), kernel.double().numpy()
    return np.stack([ndimage.convolve(plane, kernel, mode="mirror") for plane in x])


def convolved(x, psf):
    params = prepare_kernels(psf)
    radius, separable = params["radius"].item(), params["separable"].item()
    return convolve(x, params["kernels"][0], radius, separable)


def assert_convolved(y, x, kernel):
    np.testing.assert_allclose(y[0], reference(x, kernel), rtol=0, atol=5e-6)


@pytest.mark.parametrize("way", ["_by_opencv", "_by_fourier", "_by_rows_and_columns"])
@pytest.mark.parametrize("size", [(40, 50), (4, 7), (70, 1)])
def test_each_way_at_any_size(way, size):
    kernel = psf(6)[0]
    if way == "_by_rows_and_columns":
        kernel = kernel.sum(1, keepdim=True) * kernel.sum(0, keepdim=True)
    x = make_image(size)
    y = getattr(kernels, way)(x[0], kernel.flip(0, 1))
    assert_convolved(y[None], x, kernel)


@pytest.mark.parametrize(("radius", "size"), [(2, (21, 21)), (6, (231, 31)), (9, (231, 51))])
def test_a_bright_point_becomes_the_kernel(radius, size):
    x = torch.zeros(1, 3, *size)
    row, column = size[0] // 2, size[1] // 2
    x[..., row, column] = 1
    kernel = psf(radius)
    rows, columns = (slice(c - radius, c + radius + 1) for c in (row, column))
    for y in (
        convolved(x, kernel),
        convolve_canvas(Canvas.of(x), kernel).pixels,
    ):
        torch.testing.assert_close(
            y[0, :, rows, columns], kernel.expand(3, -1, -1), rtol=0, atol=1e-6
        )
        y[..., rows, columns] = 0
        assert y.abs().max() < 1e-6


def test_separable_kernels_are_known():
    sigma, rotation = torch.tensor([1.5, 1.5, 1.5, 1.5]), torch.tensor([0.0, 0.0, 0.6, 0.0])
    beta = torch.tensor([1.0, 1.0, 1.0, 0.7])
    squared = kernels.squared_distance(sigma, torch.tensor([1.5, 0.8, 0.8, 1.5]), rotation, 6)
    params = prepare_kernels(kernels.normalized(kernels.bell(squared, beta, beta > 9)))
    assert params["separable"].tolist() == [True, True, False, False]
    hole = torch.full((1, 3, 3), 1 / 8)
    hole[:, 1, 1] = 0  # division by 0
    assert prepare_kernels(hole)["separable"].tolist() == [False]
    x = make_image((20, 30))
    assert_convolved(convolved(x, hole), x, hole[0])
