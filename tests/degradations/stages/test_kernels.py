"""Kernels compared with closed forms: moments, values at points, transforms, areas."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import integrate

from degradations.stages import blur as kernels

GAUSSIAN, PLATEAU = torch.tensor([False]), torch.tensor([True])


def f64(*values):
    return torch.tensor(values, dtype=torch.float64)


def moments(kernel):
    """Return mean (column, row) and covariance of a kernel with sum 1; columns right, rows down."""
    axis = np.arange(len(kernel)) - len(kernel) // 2
    k = kernel.numpy()
    places = np.stack(np.meshgrid(axis, axis), -1).reshape(-1, 2)
    mean = k.reshape(-1) @ places
    return mean, (places - mean).T @ (k.reshape(-1, 1) * (places - mean))


def covariance(sigma_x, sigma_y, rotation):
    c, s = math.cos(rotation), math.sin(rotation)
    U = np.array([[c, -s], [s, c]])
    return U @ np.diag([sigma_x**2, sigma_y**2]) @ U.T


def test_hostile_parameters_give_a_point_not_nan():
    squared = kernels.squared_distance(*torch.tensor([[1e-3], [1e-3], [0.3]]), 10)
    for plateau in (GAUSSIAN, PLATEAU):
        kernel = kernels.normalized(kernels.bell(squared, torch.tensor([100.0]), plateau))[0]
        assert kernel[10, 10] == 1
        assert kernel.sum() == 1


class TestMotion:
    LENGTH, ANGLE = 30.0, 37.0

    def line(self, length, angle, direction=0.0, extent=17):
        return kernels.motion(f64(length), f64(angle), f64(direction), extent)[0]

    def test_covariance_is_that_of_the_line(self):
        """L^2 / 12 along it, and 1/6 on either axis from the interpolation."""
        kernel = self.line(self.LENGTH, self.ANGLE)
        mean, found = moments(kernel)
        a = math.radians(self.ANGLE)
        along = np.array([math.cos(a), -math.sin(a)])  # rows count downwards
        expected = self.LENGTH**2 / 12 * np.outer(along, along) + np.eye(2) / 6
        np.testing.assert_allclose(mean, 0, atol=1e-9)
        np.testing.assert_allclose(found, expected, atol=0.05)

    @pytest.mark.parametrize("angle", [0.0, 30.0, 100.0, 250.0])
    def test_conventions_are_kornias(self, angle):
        """Kornia's kernels are for correlations, ours are flipped: the image of a point."""
        from kornia.filters import get_motion_kernel2d

        theirs = get_motion_kernel2d(15, angle, 0.8, mode="bilinear")[0].double().flip(0, 1)
        ours = self.line(14.0, angle, 0.8, extent=7)

        def likeness(a, b):
            return ((a * b).sum() / (a.norm() * b.norm())).item()

        assert likeness(ours, theirs) > 0.93
        assert likeness(ours, theirs.flip(0, 1)) < 0.9
        assert np.abs(moments(ours)[0] - moments(theirs / theirs.sum())[0]).max() < 0.3


class TestDisk:
    @pytest.mark.parametrize("radius", [0.3, 0.8, 2.0, 4.7, 9.99])
    def test_area_and_second_moment(self, radius):
        covered = kernels.disk(f64(radius), 10)[0]
        assert covered.sum().item() == pytest.approx(math.pi * radius**2, rel=1e-12)
        torch.testing.assert_close(covered, covered.T)
        # Second moments of the disk and of the square pixel.
        found = moments(covered / covered.sum())[1]
        if radius > 0.5:
            np.testing.assert_allclose(found, (radius**2 / 4 + 1 / 12) * np.eye(2), atol=0.04)

    def test_whole_and_part_of_a_pixel(self):
        covered = kernels.disk(f64(1.0), 2)[0]
        assert covered[2, 2].item() == pytest.approx(1)
        right = integrate.quad(lambda x: 2 * min(0.5, math.sqrt(1 - x * x)), 0.5, 1)[0]
        assert covered[2, 3].item() == pytest.approx(right, abs=1e-9)
        assert covered[3, 2].item() == pytest.approx(right, abs=1e-9)
        assert covered[2, 4].item() == 0
