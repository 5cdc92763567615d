"""Blur kernels as functions of their parameters, for a whole batch on any device.

Every function maps (B,) tensors to (B, K, K) with K = 2 extent + 1. Row and column numbers grow
downwards and to the right; the centre is (extent, extent). A kernel is the image of a point:
`convolve` flips it for correlations.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

_STEPS = 128  # points along a motion path


def squared_distance(sigma_x: Tensor, sigma_y: Tensor, rotation: Tensor, extent: int) -> Tensor:
    """Return the squared distance from the centre in standard deviations, d' S^-1 d.

    Args:
        sigma_x: (B,) standard deviation along the first axis, in pixels, above 0.
        sigma_y: (B,) standard deviation along the second axis.
        rotation: (B,) radians, from the column axis towards the row axis; the covariance is
            S = U diag(sigma_x^2, sigma_y^2) U' with rotation U, for d = (column, row).
        extent: Largest distance along a row.
    """
    axis = _axis(extent, sigma_x)
    c, s = (part.view(-1, 1, 1) for part in (rotation.cos(), rotation.sin()))
    # Rotated first, then squared: both terms are positive, which avoids cancellation.
    u = (c * axis + s * axis.view(-1, 1)) / sigma_x.view(-1, 1, 1)
    v = (c * axis.view(-1, 1) - s * axis) / sigma_y.view(-1, 1, 1)
    return u.square() + v.square()


def bell(squared: Tensor, beta: Tensor, plateau: Tensor) -> Tensor:
    """Return the generalised Gaussian exp(-q^beta / 2) or the plateau 1 / (1 + q^beta).

    The kernels are not normalised.

    Args:
        squared: (B, K, K) squared distances q.
        beta: (B,) above 0. The generalised Gaussian is the Gaussian at 1, pointed at 0.5, almost a
            disk at 4; the plateau is flat in the centre and has long tails, shorter at higher beta.
        plateau: (B,) bool, true for the plateau.

    Source: Pascal et al., "Parameter Estimation For Multivariate Generalized Gaussian
    Distributions" (arXiv 1302.6498); the plateau as in BasicSR's released code.
    """
    power = squared.pow(beta.view(-1, 1, 1))
    return torch.where(plateau.view(-1, 1, 1), 1 / (1 + power), torch.exp(-0.5 * power))


def sinc(cutoff: Tensor, extent: int) -> Tensor:
    """Return the ideal circular low-pass filter w J1(w r) / (2 pi r), not normalised.

    Args:
        cutoff: (B,) angular frequency w in radians per pixel, up to pi.
        extent: Largest distance along a row.

    Source: Real-ESRGAN (Wang et al., 2021; arXiv 2107.10833), its sinc filter.
    """
    # One quarter, mirrored, because the Bessel function dominates the cost.
    square = torch.arange(extent + 1, device=cutoff.device, dtype=cutoff.dtype).square()
    # The clamp gives the limit w^2 / (4 pi) in the centre, to 1e-9.
    radius = (square + square.view(-1, 1)).sqrt().clamp_min(1e-4)
    w = cutoff.view(-1, 1, 1)
    return _mirrored(w / (2 * math.pi) * torch.special.bessel_j1(w * radius) / radius)


def motion(length: Tensor, angle: Tensor, direction: Tensor, extent: int) -> Tensor:
    """Return the path of a point along a straight line, with sum 1.

    The light is spread bilinearly over the nearest four pixels, so that lines of any angle and
    length have the exact mass, centre and extent.

    `kornia.filters.get_motion_kernel2d` rotates a row of pixels: all lengths of a batch must be
    one odd number, and its default copies the nearest pixel, so that the variance along the line
    is 0.64 to 1.21 times that of the line, by its angle (lengths 5 to 15); here 1.01 to 1.08 times.

    Args:
        length: (B,) length of the line in pixels, at most 2 (extent - 1); 0 gives a point.
        angle: (B,) degrees, counter-clockwise as displayed.
        direction: (B,) in [-1, 1]: the light falls off linearly towards one end; 1 puts the weight
            at the end at `angle`, 0 is even.
        extent: Largest distance along a row.
    """
    axis = _axis(extent, length)
    steps = torch.arange(_STEPS, device=length.device, dtype=length.dtype)
    along = (2 * steps + 1) / _STEPS - 1  # midpoints of [-1, 1]
    weights = (1 + direction.view(-1, 1) * along) / _STEPS
    place = along * length.view(-1, 1) / 2
    radians = torch.deg2rad(angle).view(-1, 1)
    x, y = place * radians.cos(), -place * radians.sin()
    columns, rows = (1 - (axis - part.unsqueeze(2)).abs() for part in (x, y))
    spread = rows.clamp_min(0) * weights.unsqueeze(2)
    return torch.bmm(spread.transpose(1, 2), columns.clamp_min(0))


def disk(radius: Tensor, extent: int) -> Tensor:
    """Return the share of each pixel that a disk covers; the sum is the area of the disk.

    Args:
        radius: (B,) pixels, above 0, at most `extent`.
        extent: Largest distance along a row.
    """
    # One quarter, mirrored; its first row and column are half pixels. In a row of pixels the edge
    # of the disk runs from column x1 (at the far side of the row) to x0; the integral of its height
    # has a closed form.
    edges = torch.arange(extent + 2, device=radius.device, dtype=radius.dtype) - 0.5
    near, far = edges[:-1].clamp_min(0), edges[1:]
    R = radius.view(-1, 1, 1)
    x0, x1 = ((R.square() - y.view(-1, 1).square()).clamp_min(0).sqrt() for y in (near, far))
    left, right = (torch.minimum(torch.maximum(x, x1), x0) for x in (near, far))

    def integral(x: Tensor) -> Tensor:
        height = (R.square() - x.square()).clamp_min(0).sqrt()
        return (x * height + R.square() * (x / R).clamp_max(1).asin()) / 2

    under = integral(right) - integral(left) - near.view(-1, 1) * (right - left)
    whole = (torch.minimum(far, x1) - near).clamp_min(0) * (far - near).view(-1, 1)
    halves = 1 + (edges[:-1] < 0).to(radius.dtype)
    return _mirrored((under + whole).clamp_min(0) * halves * halves.view(-1, 1))


def normalized(kernels: Tensor, size: Tensor | None = None) -> Tensor:
    """Set values outside a square of `size` pixels to 0, and divide by the sum.

    Args:
        kernels: (B, K, K).
        size: (B,) odd; by default the whole kernel.
    """
    if size is not None:
        axis = torch.arange(kernels.shape[-1], device=kernels.device) - kernels.shape[-1] // 2
        inside = axis.abs() <= (size // 2).view(-1, 1)
        kernels = kernels * (inside.unsqueeze(1) & inside.unsqueeze(2))
    return kernels / kernels.sum((1, 2), keepdim=True)


def _axis(extent: int, like: Tensor) -> Tensor:
    return torch.arange(-extent, extent + 1, device=like.device, dtype=like.dtype)


def _mirrored(quarter: Tensor) -> Tensor:
    n = quarter.shape[-1] - 1
    axis = torch.arange(-n, n + 1, device=quarter.device).abs()
    return quarter.index_select(1, axis).index_select(2, axis)
