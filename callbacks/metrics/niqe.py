"""NIQE: features, model and metric.

Source: Mittal, Soundararajan, Bovik, "Making a completely blind image quality analyzer", IEEE
Signal Processing Letters 2013; the fit of the asymmetric generalised Gaussian by moments after
Lasmar, Stitou, Berthoumieu, "Multiscale skewed heavy tailed model for texture analysis", 2009.

    x luma    mu, sigma local mean and deviation    (x - mu) / (sigma + 1) Eq. 1
    alpha, beta_l, beta_r shape and scales of the AGGD (Eq. 7), its mean (Eq. 8)
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from callbacks.evaluation import MetricProtocol
from callbacks.metrics.base import ImageMetric, TooSmall, WeightsMetric
from callbacks.metrics.pixels import to_pixels
from degradations.bicubic import resize
from degradations.device import copy_to, tensor_like
from files.batch import Batch

PRISTINE = "niqe-pristine"  # the name in configs/weights.yaml
BLOCK = 96  # pixels a side; half as many on the second scale
TWO_BLOCKS = f"two blocks of {BLOCK}x{BLOCK} pixels ({2 * BLOCK}x{BLOCK})"
FEATURES = 36  # of a block
YIQ = (0.299, 0.587, 0.114)  # its Y, in [0, 255]
RADIUS, DEVIATION = 3, 7 / 6  # of the Gaussian window, 7x7
SHIFTS = ((0, 1), (1, 0), (1, 1), (1, -1))  # to the neighbours: right, below, the two diagonals


def gaussian_taps() -> Tensor:
    """Return the seven weights of a 1-D Gaussian, float64 with sum 1.

    Blurring rows and then columns by them is the 7x7 window of the paper.
    """
    offsets = torch.arange(-RADIUS, RADIUS + 1, dtype=torch.float64)
    taps = torch.exp(-offsets.square() / (2 * DEVIATION**2))
    return taps / taps.sum()


def block_features(luma: Tensor) -> Tensor:
    """Return the features of each block of 96x96 pixels, cutting off the rest at right and below.

    Args:
        luma: (B, H, W) float64, whole levels in [0, 255]; H and W at least 96.

    Returns:
        (B, N, 36) float64 features, NaN if a block is flat.
    """
    return _features(_block_moments(luma))


def mean_and_covariance(features: Tensor) -> tuple[Tensor, Tensor]:
    """Return the multivariate Gaussian of each image's blocks.

    Args:
        features: (B, N, D) float64, NaN if a block has none.

    Returns:
        (B, D) means, ignoring NaN, and (B, D, D) covariances of the blocks without any NaN; NaN if
        fewer than two blocks are left.
    """
    # The means of all numbers, the covariances of whole blocks: nanmean and nancov of the original.
    complete = ~features.isnan().any(2, keepdim=True)  # (B, N, 1)
    count = complete.sum(1, keepdim=True).to(features.dtype)
    total = torch.where(complete, features, 0).sum(1, keepdim=True)
    centred = torch.where(complete, features - total / count, 0)
    covariance = centred.mT @ centred / (count - 1)
    covariance = torch.where(count > 1, covariance, torch.nan)
    return features.nanmean(1), covariance


def distance(mean: Tensor, covariance: Tensor, features: Tensor) -> Tensor:
    """Return the distance of each image's blocks from a pristine model (Eq. 10).

    Args:
        mean: (D,) float64 of the model.
        covariance: (D, D) float64 of the model.
        features: (B, N, D) float64 of the images.

    Returns:
        (B,) float64; NaN if an image has fewer than two blocks that are not flat.
    """
    means, covariances = mean_and_covariance(features)
    pooled = (covariance + covariances) / 2
    sound = pooled.isfinite().all(2).all(1) & means.isfinite().all(1)
    # One bad image would make the decomposition fail for its whole batch.
    unit = torch.eye(len(mean), dtype=pooled.dtype, device=pooled.device)
    pooled = torch.where(sound.view(-1, 1, 1), pooled, unit)
    difference = (mean - means).unsqueeze(1)
    inverse = torch.linalg.pinv(pooled, hermitian=True)
    squared = (difference @ inverse @ difference.mT).flatten()
    return torch.where(sound, squared.sqrt(), torch.nan)


# ------------------------------------------------------------------------------------- pixels
def _block_moments(luma: Tensor) -> Tensor:
    """Return the five moments of all N blocks, (B, N, 2 scales, 5 maps, 5) float64."""
    rows = luma.shape[-2] // BLOCK
    columns = luma.shape[-1] // BLOCK
    x = luma[:, : rows * BLOCK, : columns * BLOCK].float()
    moments = []
    for scale in (x, _half_size(x)):
        blocks = _blocks(_normalised(scale), rows, columns)
        moments.append(_moments_of_maps(blocks))
    return torch.stack(moments, dim=1).view(len(luma), -1, 2, 5, 5)


def _normalised(x: Tensor) -> Tensor:
    """Return (x - mu) / (sigma + 1) of (B, H, W) float32, with local mean and deviation (Eq. 1)."""
    mu, mean_of_squares = _smooth(torch.cat([x, x * x])).chunk(2)
    sigma = mean_of_squares.sub_(mu * mu).abs_().sqrt_()
    return (x - mu).div_(sigma + 1)


def _smooth(x: Tensor) -> Tensor:
    """Apply the Gaussian window to (B, H, W) float32, replicating the border.

    Summed in float64 and rounded to float32: in flat areas a pixel then equals its local mean
    exactly. Random signs of the difference would count in the statistics.
    """
    taps = gaussian_taps().tolist()
    x = functional.pad(x[:, None], (RADIUS,) * 4, mode="replicate")[:, 0].double()
    for dim in (-2, -1):
        length = x.shape[dim] - 2 * RADIUS
        total = x.narrow(dim, RADIUS, length) * taps[RADIUS]
        for i in range(RADIUS):
            pair = x.narrow(dim, i, length) + x.narrow(dim, 2 * RADIUS - i, length)
            total.add_(pair, alpha=taps[i])
        x = total
    return x.float()


def _half_size(x: Tensor) -> Tensor:
    """Return (B, H, W) float32 at half the size, as MATLAB's ``imresize`` does.

    That is antialiased bicubic, with the image mirrored at its border.
    """
    for dim in (-2, -1):
        first = x.narrow(dim, 0, 4)
        last = x.narrow(dim, x.shape[dim] - 4, 4)
        x = torch.cat([first.flip(dim), x, last.flip(dim)], dim)
    height, width = x.shape[-2:]
    image = x.unsqueeze(1).double()
    half = resize(image, [height // 2, width // 2], clamp=False).squeeze(1)
    return half[:, 2:-2, 2:-2].float()  # without the mirrored border


def _blocks(x: Tensor, rows: int, columns: int) -> Tensor:
    """Split (B, H, W) into (B * N, h, w), row by row."""
    batch, height, width = x.shape
    x = x.view(batch, rows, height // rows, columns, width // columns)
    return x.transpose(2, 3).flatten(0, 2)


# --------------------------------------------------------------------------------- statistics
def _moments_of_maps(blocks: Tensor) -> Tensor:
    """Return moments (N, 5 maps, 5) of normalised blocks (N, h, w).

    The first map is the block itself, the others its products with each of four neighbours.
    """
    moments = [_moments(blocks)]
    for shift in SHIFTS:
        moments.append(_moments(blocks * blocks.roll(shift, (1, 2))))
    return torch.stack(moments, dim=1)


def _moments(x: Tensor) -> Tensor:
    """Return means (N, 5) float64 of sign, sign^2, |x|, x^2 and x^2 below 0, of (N, h, w) float32.

    Summed in float64: rounding of float32 sums sometimes moves a block's shape by a step of 0.001,
    and has moved an image's number by 6e-4.
    """
    x = x.flatten(1)
    sign = x.sign()
    negative = x.clamp(max=0)
    maps = [sign, sign.abs(), x.abs(), x.square(), negative.square()]
    sums = [values.sum(1, dtype=torch.float64) for values in maps]
    pixels = x.shape[1]
    return torch.stack(sums, dim=1) / pixels


def _features(moments: Tensor) -> Tensor:
    """Return the features (B, N, 36) of moments (B, N, 2 scales, 5 maps, 5).

    Each scale has 18: shape and scale of the distribution of the pixels, then shape, mean, and left
    and right scale of those of the four products.
    """
    alpha, beta_left, beta_right = _fit_aggd(moments)  # (B, N, 2, 5) each
    gamma_ratio = (torch.lgamma(2 / alpha) - torch.lgamma(1 / alpha)).exp()
    mean = (beta_right - beta_left) * gamma_ratio  # Eq. 8
    beta = (beta_left + beta_right) / 2
    of_pixels = torch.stack([alpha, beta], dim=-1)[..., 0, :]  # (B, N, 2, 2)
    of_products = torch.stack([alpha, mean, beta_left, beta_right], dim=-1)[..., 1:, :]
    features = torch.cat([of_pixels, of_products.flatten(-2)], dim=-1)  # (B, N, 2, 18)
    return features.flatten(2)


def _fit_aggd(moments: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Fit asymmetric generalised Gaussian distributions to moments (..., 5) of ``_moments``.

    Returns:
        Their shape alpha and scales beta_l and beta_r, (...) each (Eq. 7).
    """
    mean_sign, mean_nonzero, mean_absolute, mean_square, mean_square_left = moments.unbind(-1)
    share_left = (mean_nonzero - mean_sign) / 2  # of the pixels that are below 0
    share_right = (mean_nonzero + mean_sign) / 2
    sigma_left = (mean_square_left / share_left).sqrt()
    sigma_right = ((mean_square - mean_square_left) / share_right).sqrt()
    gamma = sigma_left / sigma_right
    ratio = mean_absolute.square() / mean_square
    ratio = ratio * (gamma**3 + 1) * (gamma + 1) / (gamma.square() + 1).square()
    alpha = _nearest_shape(ratio)
    beta_by_sigma = ((torch.lgamma(1 / alpha) - torch.lgamma(3 / alpha)) / 2).exp()
    return alpha, sigma_left * beta_by_sigma, sigma_right * beta_by_sigma


def _nearest_shape(ratio: Tensor) -> Tensor:
    """Return the shape alpha whose ratio E|x|^2 / E x^2 is nearest: 0.2 to 10 by steps of 0.001."""
    shapes, middles = _shape_table(ratio.device)
    nearest = shapes[torch.searchsorted(middles, ratio)]
    # A flat block's NaN gives the first, as in the authors' release.
    return torch.where(ratio.isnan(), shapes[0], nearest)


@functools.cache
def _shape_table(device: torch.device) -> tuple[Tensor, Tensor]:
    """Return all shapes, and the ratios of moments half-way between one shape and the next.

    The ratio of a shape alpha is Gamma(2 / alpha)^2 / (Gamma(1 / alpha) Gamma(3 / alpha)).
    """
    shapes = torch.arange(200, 10_001, dtype=torch.float64) / 1000
    log_gamma_1 = torch.lgamma(1 / shapes)
    log_gamma_2 = torch.lgamma(2 / shapes)
    log_gamma_3 = torch.lgamma(3 / shapes)
    ratios = (2 * log_gamma_2 - log_gamma_1 - log_gamma_3).exp()
    # The ratios grow with the shape, so bisection finds the nearest.
    middles = (ratios[1:] + ratios[:-1]) / 2
    return shapes.to(device), middles.to(device)


def read_model(path: Path) -> tuple[Tensor, Tensor]:
    """Return the mean (36,) and covariance (36, 36) float64 of a pristine model.

    Args:
        path: BasicSR's ``niqe_pris_params.npz``, whose hash was compared when it was located.
    """
    with np.load(path, allow_pickle=False) as file:
        mean = torch.from_numpy(file["mu_pris_param"].ravel()).double()
        covariance = torch.from_numpy(file["cov_pris_param"]).double()
    return mean, covariance


class NIQE(WeightsMetric, ImageMetric):
    """Natural image quality evaluator: needs no HR image; lower is better.

    The number of the authors' MATLAB release (5.7296 for USC-SIPI's baboon) and of BasicSR's
    ``calculate_niqe``, to 1e-3. MATLAB's own ``niqe`` has another model and gives other numbers.
    Images of fewer than two blocks of 96x96 pixels (192x96) are skipped with a warning. Residual
    noise lowers NIQE, too: also look at a metric with reference.

    Args:
        color: ``y`` for the luma of BT.601 in [16, 235], as the authors and BasicSR have it, or
            ``yiq`` for that of YIQ in [0, 255], as pyiqa has it; not to be compared.

    Examples:
        >>> import enlarger
        >>> from callbacks import NIQE
        >>> enlarger.measure("enlarged", None, [NIQE()])["niqe"]["value"]  # doctest: +SKIP
    """

    name = "niqe"
    higher_is_better = False
    needs_hr = False
    files = (PRISTINE,)
    pristine: tuple[Tensor, Tensor]

    def __init__(self, color: Literal["y", "yiq"] = "y", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.color = color

    def build(self, paths: list[Path]) -> None:
        """Read the model."""
        self.pristine = read_model(paths[0])

    def protocol(self) -> MetricProtocol:
        """Return implementation, colour, border, rounding, range, block, and the model's hash."""
        return {
            "implementation": "enlarger niqe 1",
            "color": self.color,
            "border": 0,
            "round_8bit": True,
            "data_range": 255,
            "block": BLOCK,
            "weights": f"{PRISTINE}.npz",
            "sha256": self.sha256,
        }

    def compute(self, sr: Tensor, hr: Tensor, batch: Batch) -> Tensor:
        """Return (B,) distances from the model.

        Raises:
            TooSmall: If the images have fewer than two blocks.
        """
        rows = sr.shape[-2] // BLOCK
        columns = sr.shape[-1] // BLOCK
        if rows * columns < 2:
            raise TooSmall(sr, TWO_BLOCKS)
        luma = self._luma(sr[..., : rows * BLOCK, : columns * BLOCK])
        mean, covariance = (copy_to(x, luma.device) for x in self.pristine)
        return distance(mean, covariance, block_features(luma))

    def _luma(self, image: Tensor) -> Tensor:
        """Return (B, H, W) float64, whole levels."""
        if self.color == "y":
            return to_pixels(image, "y")[:, 0].round()
        pixels = to_pixels(image, "rgb")
        return (pixels * tensor_like(YIQ, pixels).view(3, 1, 1)).sum(1).round()
