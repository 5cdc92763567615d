"""PSNR as papers on super-resolution report it."""

from __future__ import annotations

from torch import Tensor

from callbacks.pixels import PixelMetric


class PSNR(PixelMetric):
    """Peak signal-to-noise ratio in dB, averaged over images (the error is not pooled).

    The defaults give the PSNR-Y of the papers' tables: bicubic on Set5 has 33.68 (x2), 30.41 (x3),
    28.43 (x4). An image that is reproduced exactly, such as a black one, has an infinite PSNR: it
    is left out of the mean, and a warning names it.

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

    name = "psnr"

    def score(self, sr: Tensor, hr: Tensor) -> Tensor:
        """Return (B,) dB of two images (B, C, H, W) float64 in [0, 255]."""
        return psnr(sr, hr)


def psnr(a: Tensor, b: Tensor) -> Tensor:
    """Return the PSNR of each image: 10 log10(255^2 / its mean squared error).

    Args:
        a: (B, C, H, W) float64 in [0, 255].
        b: The same.

    Returns:
        (B,) dB, infinite if two images are equal.
    """
    return 10 * (255**2 / (a - b).square().mean((1, 2, 3))).log10()
