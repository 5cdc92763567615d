"""Correct the colours of the output by those of the LR image.

Outputs of generative methods drift in colour, as a whole or in parts. The corrections take only
coarse components of LR, so they do not blur. All computation is float32, also under autocast.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from degradations.bicubic import resize
from degradations.device import tensor_like

ColorFix = Literal["none", "wavelet", "adain", "ycbcr", "adain_wavelet"]
LEVELS = 5  # of the wavelet: SR keeps details finer than about 2**LEVELS pixels
LUMA = (0.299, 0.587, 0.114)  # BT.601
EPS = 1e-5  # added to variances


def fix_colors(sr: Tensor, lr: Tensor, kind: ColorFix) -> Tensor:
    """Give an output the colours of its LR image.

    - ``wavelet``: details of SR on the coarse LR image; also corrects local tints
    - ``adain``: each channel gets its mean and deviation in LR
    - ``ycbcr``: brightness of SR, colour of LR
    - ``adain_wavelet``: ``adain``, then ``wavelet``, as in NSARM

    The reference is LR enlarged by antialiased bicubic interpolation (a = -0.5). Official InvSR
    enlarges a padded LR image to the size of an SR image without padding, which shifts colours; for
    its numbers pass the padded image.

    Args:
        sr: (B, 3, H, W) in [0, 1].
        lr: (B, 3, h, w) in [0, 1].
        kind: The correction; ``none`` returns ``sr`` itself.

    Returns:
        (B, 3, H, W) float32 in [0, 1].

    Source: StableSR (Wang et al., IJCV 2024) for the wavelet and AdaIN corrections, with their
    constants; InvSR (Yue et al., CVPR 2025) and NSARM for the others.
    """
    if kind == "none":
        return sr
    with torch.autocast(sr.device.type, enabled=False):
        sr = sr.float()
        lr = lr.float()
        if kind == "ycbcr":
            return ycbcr(sr, resize(lr, sr.shape[-2:], clamp=False)).clamp_(0, 1)
        fixed = torch.empty_like(sr)
        for channel in range(3):  # one at a time, to save memory
            part = slice(channel, channel + 1)
            reference = resize(lr[:, part], sr.shape[-2:], clamp=False)
            fixed[:, part] = _fixed(sr[:, part], reference, kind)
        return fixed.clamp_(0, 1)


def _fixed(sr: Tensor, reference: Tensor, kind: ColorFix) -> Tensor:
    """Correct one channel by the same channel of the enlarged LR image."""
    if kind == "wavelet":
        return wavelet(sr, reference)
    if kind == "adain":
        return adain(sr, reference)
    return wavelet(adain(sr, reference).clamp_(0, 1), reference)


def wavelet(sr: Tensor, reference: Tensor) -> Tensor:
    """Combine the high band of ``sr`` with the low band of ``reference``.

    The bands are those of the a-trous wavelet: five binomial blurs of 3x3, each twice as wide as
    the one before, with repeated borders.

    Args:
        sr: (B, C, H, W).
        reference: (B, C, H, W).

    Returns:
        (B, C, H, W), not clamped.
    """
    # Equals sr - low(sr) + low(reference), as blurring is linear, in half the time.
    return sr + low_band(reference - sr)


def low_band(x: Tensor) -> Tensor:
    """Blur (B, C, H, W) by the five levels of the a-trous wavelet."""
    for level in range(LEVELS):  # the kernel (1, 2, 1) / 4 along each axis, with gaps
        reach = 2**level
        for dim, pad in ((-1, (reach, reach, 0, 0)), (-2, (0, 0, reach, reach))):
            side = x.shape[dim]
            wide = functional.pad(x, pad, mode="replicate")
            neighbours = wide.narrow(dim, 0, side) + wide.narrow(dim, 2 * reach, side)
            x = neighbours.add_(x, alpha=2).div_(4)
    return x


def adain(sr: Tensor, reference: Tensor) -> Tensor:
    """Give each channel of ``sr`` its mean and deviation in ``reference``.

    Args:
        sr: (B, C, H, W).
        reference: (B, C, H, W).

    Returns:
        (B, C, H, W), not clamped.

    Source: Huang and Belongie, ICCV 2017, Eq. 8, with unbiased variances as in StableSR.
    """
    mean, deviation = _moments(sr)
    target_mean, target_deviation = _moments(reference)
    return (sr - mean).mul_(target_deviation / deviation).add_(target_mean)


def _moments(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and standard deviation of each channel, (B, C, 1, 1)."""
    correction = min(x.shape[-2] * x.shape[-1] - 1, 1)  # one pixel has no unbiased variance
    variance, mean = torch.var_mean(x, (-2, -1), correction=correction, keepdim=True)
    return mean, (variance + EPS).sqrt()


def ycbcr(sr: Tensor, reference: Tensor) -> Tensor:
    """Combine Y of ``sr`` with Cb and Cr of ``reference``.

    In any range of YCbCr, a change of Y alone adds the same to R, G and B. So the difference of the
    two Y is added to ``reference``, and no conversion is needed.

    Args:
        sr: (B, 3, H, W).
        reference: (B, 3, H, W).

    Returns:
        (B, 3, H, W), not clamped.
    """
    weights = tensor_like(LUMA, sr).view(1, 3, 1, 1)
    return reference + ((sr - reference) * weights).sum(1, keepdim=True)
