"""MS-SSIM, SSIM on five scales.

Source: Wang, Simoncelli, Bovik, "Multi-scale structural similarity for image quality assessment"
(Asilomar 2003), Eq. 7, and its weights.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional

from callbacks.pixels import PixelMetric
from callbacks.ssim import C1, C2, K1, K2, RADIUS, moments
from callbacks.tensorboard import MetricProtocol
from callbacks.too_small import TooSmall

if TYPE_CHECKING:
    from datamodules.base import Batch

WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
SMALLEST = (2 * RADIUS + 1) * 2 ** (len(WEIGHTS) - 1)


class MSSSIM(PixelMetric):
    """Multi-scale structural similarity: SSIM's window on five scales, each half the last.

    Windows lie inside the image, as with SSIM; torchmetrics 1.9 also averages the last scale over a
    mirrored border, a difference of 5e-5 on the images of our test. Images need 176x176 pixels
    without the border.

    Args:
        color: ``y`` for the luma of BT.601 in [16, 235], as papers on super-resolution do, or
            ``rgb``.
        border: Pixels cut off at each side before comparing; ``scale`` cuts as many as the scale,
            rounded up, ``scale+6`` six more (as tables of DIV2K in RGB have it).
        round_8bit: Round images to 8 bit first, as numbers from saved PNG files are.
        every_n: In ``fit``, compute at the first validation and at every n-th after it.
        limit: Use only the first images of each dataset, this many; all of them by default.
        label: Name in logs and results, if one metric is used twice (say, on Y and on RGB).
        control: Also measure the bicubic enlargement of the same LR: the row ``bicubic`` of the
            results.
    """

    name = "ms_ssim"

    def protocol(self) -> MetricProtocol:
        """Return implementation, colour, border, rounding, range, window and scales."""
        return {
            **super().protocol(),
            "window": "gaussian 11x11 1.5 valid",
            "k1": K1,
            "k2": K2,
            "scales": len(WEIGHTS),
            "negative_contrast": "0",
        }

    def compute(self, sr: Tensor, hr: Tensor, batch: Batch) -> Tensor:
        """Return the score of each image.

        Raises:
            TooSmall: If an image is too small for five scales.
        """
        border = self.margin()
        if min(sr.shape[-2:]) - 2 * border < SMALLEST:
            raise TooSmall(sr, f"{SMALLEST}x{SMALLEST} pixels without the border of {border}")
        return super().compute(sr, hr, batch)

    def score(self, sr: Tensor, hr: Tensor) -> Tensor:
        """Return (B,) values of two images (B, C, H, W) float64 in [0, 255]."""
        return ms_ssim(sr, hr)


def ms_ssim(a: Tensor, b: Tensor) -> Tensor:
    """Return the MS-SSIM of each image; a scale with negative contrast counts as 0.

    Args:
        a: (B, C, H, W) float64 in [0, 255].
        b: The same.

    Returns:
        (B,) values in [0, 1].
    """
    product = torch.ones(len(a), dtype=a.dtype, device=a.device)
    for number, weight in enumerate(WEIGHTS):
        if number:
            a, b = (functional.avg_pool2d(x, 2) for x in (a, b))
        mean_a, mean_b, aa, bb, ab = moments(a, b)
        means, squares = mean_a * mean_b, mean_a.square() + mean_b.square()
        values = (2 * (ab - means) + C2) / (aa + bb - squares + C2)
        if number == len(WEIGHTS) - 1:  # luminance on the smallest only
            values = values * (2 * means + C1) / (squares + C1)
        product = product * values.mean((1, 2, 3)).relu() ** weight
    return product
