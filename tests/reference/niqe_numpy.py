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
from scipy.ndimage import correlate
from scipy.special import gamma

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
    """MSCN coefficients (Eq. 1)."""

    def rounded(x):
        return x.astype(precision).astype(np.float64)

    image = rounded(image)
    mean = rounded(correlate(image, window(), mode="nearest"))
    square = rounded(correlate(rounded(image**2), window(), mode="nearest"))
    difference = image - mean
    variance = np.abs(square - rounded(mean**2))
    difference[np.abs(difference) < 1e-9] = 0
    variance[variance < 1e-9] = 0
    return difference / (np.sqrt(variance) + 1)


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
    values = [alpha, (left + right) / 2]
    for down, across in ((0, 1), (1, 0), (1, 1), (1, -1)):
        neighbour = np.roll(np.roll(block, down, axis=0), across, axis=1)
        alpha, left, right = asymmetric_fit(block * neighbour)
        mean = (right - left) * gamma(2 / alpha) / gamma(1 / alpha)
        values += [alpha, float(mean), left, right]
    return values


def half(image):
    """Half the size, by the cubic kernel (a = -1/2) stretched by two, pixels mirrored."""
    # A new pixel's centre lies between two old ones; five on either side have a weight.
    taps = np.array([cubic((place - 4.5) / 2) for place in range(10)])
    taps /= taps.sum()
    for _ in range(2):
        padded = np.pad(image, ((4, 5), (0, 0)), mode="symmetric")
        rows = [taps @ padded[top : top + 10] for top in range(0, len(image) - 1, 2)]
        image = np.stack(rows).T
    return image


def cubic(x):
    """Keys' kernel."""
    x = abs(x)
    if x <= 1:
        return 1.5 * x**3 - 2.5 * x**2 + 1
    return -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2 if x <= 2 else 0.0


def features(image, precision=np.float64):
    """(N, 36) statistics of all blocks of 96x96 pixels, row by row."""
    height = image.shape[0] // 96 * 96
    width = image.shape[1] // 96 * 96
    image = image[:height, :width]
    scales = []
    for _ in range(2):
        coefficients = normalised(image, precision)
        blocks = []
        for rows in np.split(coefficients, height // 96):
            blocks += np.split(rows, width // 96, axis=1)
        scales.append([statistics(block) for block in blocks])
        image = half(image)
    return np.concatenate(scales, axis=1)


def niqe(image, mean, covariance, precision=np.float64):
    """Distance of an image (H, W) of levels from a pristine model (Eq. 10)."""
    with np.errstate(divide="ignore", invalid="ignore"):
        of_blocks = features(image, precision)
    difference = mean.ravel() - np.nanmean(of_blocks, axis=0)
    without_nan = of_blocks[~np.isnan(of_blocks).any(axis=1)]
    pooled = (covariance + np.cov(without_nan, rowvar=False)) / 2
    return float(np.sqrt(difference @ np.linalg.pinv(pooled) @ difference))
