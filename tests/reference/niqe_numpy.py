"""NIQE as its paper has it, in numpy, one block at a time: what ours is compared with.

Written from Mittal, Soundararajan, Bovik, "Making a completely blind image quality analyzer" (IEEE
SPL 2013) and, for the fit, Lasmar, Stitou, Berthoumieu (ICIP 2009); choices that the paper leaves
open (window, block, table of shapes, resize, mirrored border) are those of its authors' release, as
its documentation describes them. Loops and scipy, so that nothing is shared with ours. In float64;
where a pixel equals its local mean but for rounding, it counts as equal: else the signs of rounding
errors would be counted. `precision` rounds what is kept of each pixel, as ours does to float32: in
nearly flat areas the local deviation then has an error of some percent.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import correlate
from scipy.special import gamma

Array = NDArray[np.float64]

SHAPES = np.arange(200, 10_001) / 1000
# rho(alpha), the ratio of (E|x|)^2 to E[x^2] of a generalised Gaussian
RATIOS = gamma(2 / SHAPES) ** 2 / (gamma(1 / SHAPES) * gamma(3 / SHAPES))


def luma(rgb):
    """(H, W) whole levels of Y of BT.601 in [16, 235], from (H, W, 3) uint8."""
    return np.round(16 + rgb.astype(np.float64) @ np.array([65.481, 128.553, 24.966]) / 255)


def window():
    """7x7 Gaussian of deviation 7/6 that sums to 1."""
    y, x = np.mgrid[-3:4, -3:4]
    weights = np.exp(-(x**2 + y**2) / (2 * (7 / 6) ** 2))
    return weights / weights.sum()


def normalised(image, precision=np.float64):
    """MSCN coefficients (Eq. 1), and the local deviation."""

    def rounded(x):
        return x.astype(precision).astype(np.float64)

    image = rounded(image)
    mean = rounded(correlate(image, window(), mode="nearest"))
    square = rounded(correlate(rounded(image**2), window(), mode="nearest"))
    difference, variance = image - mean, np.abs(square - rounded(mean**2))
    difference[np.abs(difference) < 1e-9] = 0
    variance[variance < 1e-9] = 0
    return difference / (np.sqrt(variance) + 1), np.sqrt(variance)


def asymmetric_fit(x):
    """alpha, beta_l, beta_r of Eq. 7 by moments."""
    x = x.ravel()
    left = np.sqrt(np.mean(x[x < 0] ** 2))
    right = np.sqrt(np.mean(x[x > 0] ** 2))
    ratio = left / right
    moment = np.mean(np.abs(x)) ** 2 / np.mean(x**2)
    moment *= (ratio**3 + 1) * (ratio + 1) / (ratio**2 + 1) ** 2
    alpha = SHAPES[np.argmin((RATIOS - moment) ** 2)]
    scale = np.sqrt(gamma(1 / alpha) / gamma(3 / alpha))
    return float(alpha), float(left * scale), float(right * scale)


def statistics(block):
    """18 of one block: of its pixels, and of the products of neighbours in four directions."""
    alpha, left, right = asymmetric_fit(block)
    found = [alpha, (left + right) / 2]
    for down, across in ((0, 1), (1, 0), (1, 1), (1, -1)):
        neighbour = np.roll(np.roll(block, down, axis=0), across, axis=1)
        alpha, left, right = asymmetric_fit(block * neighbour)
        mean = (right - left) * gamma(2 / alpha) / gamma(1 / alpha)
        found += [alpha, float(mean), left, right]
    return found


def half(image):
    """Half the size, by the cubic kernel (a = -1/2) stretched by two, pixels mirrored."""
    for axis in (0, 1):
        image = np.moveaxis(image, axis, 0)
        size = len(image)
        rows = []
        for place in range(size // 2):
            centre = 2 * place + 0.5  # in pixels of the source
            row, total = np.zeros(image.shape[1]), 0.0
            for source in range(int(np.floor(centre)) - 4, int(np.floor(centre)) + 6):
                weight = cubic((source - centre) / 2)
                mirrored = -source - 1 if source < 0 else source
                mirrored = 2 * size - 1 - mirrored if mirrored >= size else mirrored
                row += weight * image[mirrored]
                total += weight
            rows.append(row / total)
        image = np.moveaxis(np.stack(rows), 0, axis)
    return image


def cubic(x):
    """Keys' kernel."""
    x = abs(x)
    if x <= 1:
        return 1.5 * x**3 - 2.5 * x**2 + 1
    return -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2 if x <= 2 else 0.0


def features(image, precision=np.float64):
    """(N, 36) statistics of all blocks of 96x96 pixels, row by row, and their (N,) sharpness."""
    rows, columns = image.shape[0] // 96, image.shape[1] // 96
    image = image[: rows * 96, : columns * 96]
    scales, sharpness = [], []
    for side in (96, 48):
        coefficients, deviation = normalised(image, precision)
        found = []
        for top in range(0, rows * side, side):
            for left in range(0, columns * side, side):
                place = slice(top, top + side), slice(left, left + side)
                found.append(statistics(coefficients[place]))
                if side == 96:
                    sharpness.append(float(np.mean(deviation[place])))
        scales.append(np.array(found))
        image = half(image)
    return np.concatenate(scales, axis=1), np.array(sharpness)


def niqe(image, mean, covariance, precision=np.float64):
    """Distance of an image (H, W) of levels from a pristine model (Eq. 10)."""
    with np.errstate(divide="ignore", invalid="ignore"):
        found, _ = features(image, precision)
    difference = mean.ravel() - np.nanmean(found, axis=0)
    whole = found[~np.isnan(found).any(axis=1)]
    pooled = (covariance + np.cov(whole, rowvar=False)) / 2
    return float(np.sqrt(difference @ np.linalg.pinv(pooled) @ difference))
