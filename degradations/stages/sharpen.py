"""Sharpening."""

from __future__ import annotations

import functools

import torch
from torch import Tensor
from torch.nn import functional

from degradations.base import Canvas, DeviceStage, ImageFunction, rounded_up
from degradations.draws import Draws, Params
from degradations.stages.blur import convolve_canvas, mirror
from files.numbers import NonNegativeFloat, PositiveInt

_LANES = 16  # floats of a vector register; columns are padded to multiples


class USM(DeviceStage):
    """Sharpen by an unsharp mask where the difference exceeds a threshold.

    The difference from the blurred image is added, `weight` times, and the sum clamped to [0, 1].
    This applies to each channel where its difference exceeds `threshold`, with a soft transition:
    the mask is blurred by the same Gaussian.

    `kornia.filters.unsharp_mask` has no mask, weight or clamp. On
    one core of a Zen 5 this takes 1.3 ms for an image of 256 px, the same steps by OpenCV 2.4 ms,
    the released code's two convolutions with 51 x 51 taps 140 ms.

    Args:
        weight: Factor of the difference that is added.
        radius: Side of the Gaussian in pixels; 1 is added to an even side.
        threshold: Smallest absolute difference that is sharpened, in 8-bit levels.

    Source: released code of Real-ESRGAN (Wang et al., 2021; arXiv 2107.10833), with OpenCV's
    standard deviation for a Gaussian of that side: 0.3 ((side - 1) / 2 - 1) + 0.8.
    """

    def __init__(
        self,
        weight: NonNegativeFloat = 0.5,
        radius: PositiveInt = 50,
        threshold: NonNegativeFloat = 10.0,
    ) -> None:
        super().__init__()
        self.weight = weight
        self.threshold = threshold
        self.side = radius + 1 - radius % 2

    @functools.cached_property
    def taps(self) -> Tensor:
        """Taps of the Gaussian, (side,), made when they are first used: kornia loads slowly."""
        return gaussian_taps(self.side)

    def draw(self, draws: Draws, shape: torch.Size) -> Params:
        """Draw nothing."""
        return {}

    def cpu_functions(self, params: Params, x: Tensor) -> list[ImageFunction]:
        """Return the same function for each image; borders are mirrored for the blurs."""
        return [self._sharpened] * len(x)

    def on_canvas(self, canvas: Canvas, params: Params) -> Canvas:
        """Sharpen all images."""
        pixels = canvas.pixels
        # Made on the device: a copy from the host would be a transfer.
        taps = gaussian_taps(self.side, pixels.device)
        kernel = torch.outer(taps, taps).unsqueeze(0)
        smooth = convolve_canvas(canvas, kernel).pixels
        residual = pixels - smooth
        levels = residual.abs() * 255
        mask = (levels > self.threshold).to(residual.dtype)
        soft_mask = convolve_canvas(canvas.with_pixels(mask), kernel).pixels
        sharp = (pixels + self.weight * residual).clamp(0, 1)
        sharpened = torch.lerp(pixels, sharp, soft_mask)
        return canvas.with_pixels(sharpened)

    def _sharpened(self, x: Tensor) -> Tensor:
        """Sharpen an image (1, C, H, W) on the CPU, as `on_canvas`."""
        import cv2  # fewer passes through memory than torch's operators

        image = x[0].contiguous()
        C, H, W = image.shape
        smooth = blurred(image, self.taps)
        original = image.view(C * H, W).numpy()
        low = smooth.view(C * H, W).numpy()
        mask = cv2.absdiff(original, low)
        cv2.threshold(mask, self.threshold / 255, 1.0, cv2.THRESH_BINARY, dst=mask)
        hard_mask = torch.from_numpy(mask).view(image.shape)
        soft_mask = blurred(hard_mask, self.taps)
        # image + weight (image - smooth), written into the memory of `smooth`.
        cv2.addWeighted(original, 1 + self.weight, low, -self.weight, 0.0, dst=low)
        sharp = smooth.clamp_(0, 1)
        return image.lerp(sharp, soft_mask).unsqueeze(0)


def gaussian_taps(side: int, device: torch.device | None = None) -> Tensor:
    """Return (side,) float32 taps of a Gaussian of OpenCV's default deviation, with sum 1."""
    from kornia.filters import get_gaussian_kernel1d

    sigma = 0.3 * ((side - 1) * 0.5 - 1) + 0.8
    # Filled on the device: kornia would copy a Python number, and the host would wait.
    sigmas = torch.full((1, 1), sigma, device=device)
    return get_gaussian_kernel1d(side, sigmas)[0]


def blurred(image: Tensor, taps: Tensor) -> Tensor:
    """Convolve rows and columns with the same symmetric taps on the CPU; borders are mirrored.

    For 51 taps at 256 px this takes 0.4 ms, OpenCV's row and column filters 0.9 ms.

    Args:
        image: (C, H, W) float32, contiguous.
        taps: (side,), side odd.
    """
    _, H, W = image.shape
    n = len(taps) // 2
    padded_size = (H + 2 * n, rounded_up(W, _LANES))
    padded = mirror(image, (n, 0), padded_size)
    down = _along_columns(padded, taps)[:, :, :W]

    turned = transposed(down)
    padded_size = (W + 2 * n, rounded_up(H, _LANES))
    padded = mirror(turned, (n, 0), padded_size)
    across = _along_columns(padded, taps)[:, :, :H]
    return transposed(across)


def transposed(image: Tensor) -> Tensor:
    """Transpose to (C, W, H), contiguous; four times as fast as torch's copy."""
    import cv2

    C, H, W = image.shape
    y = image.new_empty(C, W, H)
    for plane, target in zip(image.numpy(), y.numpy(), strict=True):
        cv2.transpose(plane, dst=target)
    return y


def _along_columns(padded: Tensor, taps: Tensor) -> Tensor:
    """Convolve (C, rows, W) with the taps along columns; no padding."""
    # Pixels of a row are contiguous, like channels in channels_last: the same memory is a batch of
    # sequences with W channels, for which the depthwise convolution is fastest.
    sequences = padded.unsqueeze(1).permute(0, 3, 1, 2)  # (C, W, 1, rows)
    width = padded.shape[2]
    weights = taps.repeat(width, 1)
    weights = weights.view(width, 1, 1, len(taps))
    sums = functional.conv2d(sequences, weights, groups=width)
    return sums.permute(0, 2, 3, 1).squeeze(1)  # (C, rows - side + 1, W)
