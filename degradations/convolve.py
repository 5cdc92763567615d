"""Convolve each image with its own kernel: the fastest way on a CPU, and that of a canvas.

Borders are mirrored without repeating edge pixels, as often as a small image requires. On one core
of a Zen 5, for 3 channels of 256 px and 21 x 21 taps, in one run: 0.6 ms for a separable kernel
(OpenCV's row and column filters), 1.8 ms for others (FFT; the depthwise convolution of bands is
equal here and slower for larger images), 5.2 ms by OpenCV's `filter2D`, 6.5 ms by torch's `conv2d`
and 6.7 ms by kornia's `filter2d`, which the canvas uses on a GPU.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from degradations.canvas import Canvas
from degradations.params import Params, split_params

_TAIL = 1e-5  # outer rings of a kernel with less mass in total are dropped
_SEPARABLE = 1e-6  # sum of absolute differences from the product of a column and a row
_BAND = 16  # rows
_ONE_TILE = 210  # largest side that OpenCV transforms at once
_BANDED = 256  # largest side for bands: larger images have many sizes, each compiled separately


def prepare_kernels(psf: Tensor) -> Params:
    """Prepare kernels for `convolve` and `convolve_canvas`.

    Args:
        psf: (B, K, K), K odd, sum 1: the image of a point.

    Returns:
        `kernels` (B, K, K), flipped for correlations; `radius` (B,) int64, the effective radius;
        `separable` (B,) bool, whether the kernel is the product of a column and a row.
    """
    kernels = psf.flip((1, 2))
    n = psf.shape[-1] // 2
    axis = torch.arange(-n, n + 1, device=psf.device).abs()
    rings = torch.maximum(axis, axis.view(-1, 1)).view(-1, 1)
    outside = (rings >= torch.arange(n + 1, device=psf.device)).to(psf.dtype)
    mass = kernels.abs().flatten(1) @ outside  # (B, n + 1): from each ring outwards
    row, column = kernels[:, n : n + 1], kernels[:, :, n : n + 1]
    product = column * row / kernels[:, n : n + 1, n : n + 1]  # 0 / 0 is NaN, not separable
    return {
        "kernels": kernels,
        "radius": (mass > _TAIL).sum(1) - 1,
        "separable": (kernels - product).abs().sum((1, 2)) < _SEPARABLE,
    }


def convolve(x: Tensor, params: Params) -> Tensor:
    """Convolve each image with its own kernel.

    Args:
        x: (B, C, H, W) float32.
        params: The result of `prepare_kernels`.
    """
    if x.device.type != "cpu" or x.requires_grad:
        return convolve_canvas(Canvas.of(x), params).pixels
    if len(x) != 1:
        own = split_params(params, len(x))
        return torch.cat([convolve(x[i : i + 1], own[i]) for i in range(len(x))])
    radius, n = int(params["radius"].item()), params["kernels"].shape[-1] // 2
    if radius == 0:
        return x
    kept = slice(n - radius, n + radius + 1)
    kernel, image = params["kernels"][0, kept, kept], x[0].contiguous()
    H, W = image.shape[1:]
    if params["separable"].item():
        y = _by_rows_and_columns(image, kernel)
    elif 5 <= radius <= 8 and _ONE_TILE < max(H, W) <= _BANDED:
        y = _by_bands(image, kernel)
    elif radius <= 5 or max(H, W) <= _ONE_TILE:
        y = _by_opencv(image, kernel)
    else:
        y = _by_fourier(image, kernel)
    return y.unsqueeze(0)


def convolve_canvas(canvas: Canvas, params: Params) -> Canvas:
    """Convolve all images at once with kornia's `filter2d`, whatever their kernels' radii.

    Args:
        canvas: The images.
        params: The result of `prepare_kernels`.
    """
    from kornia.filters import filter2d

    kernels = params["kernels"]
    padded = canvas.reflected(kernels.shape[-1] // 2)
    # One kernel per image makes one group per channel, which also keeps the device from TF32.
    return canvas.with_pixels(filter2d(padded, kernels, padding="valid"))


def _by_rows_and_columns(image: Tensor, kernel: Tensor) -> Tensor:
    import cv2

    taps, middle = kernel.numpy(), len(kernel) // 2
    row, column = taps[middle], taps[:, middle] / taps[middle, middle]
    y = torch.empty_like(image)
    for plane, target in zip(image.numpy(), y.numpy(), strict=True):
        cv2.sepFilter2D(plane, -1, row, column, dst=target, borderType=cv2.BORDER_REFLECT_101)
    return y


def _by_opencv(image: Tensor, kernel: Tensor) -> Tensor:
    # Tap by tap up to 11 x 11; larger kernels by a transform, fast while one tile is enough.
    import cv2

    taps = kernel.contiguous().numpy()
    y = torch.empty_like(image)
    for plane, target in zip(image.numpy(), y.numpy(), strict=True):
        cv2.filter2D(plane, -1, taps, dst=target, borderType=cv2.BORDER_REFLECT_101)
    return y


def _by_bands(image: Tensor, kernel: Tensor) -> Tensor:
    """Turn bands of rows into channels, so that the depthwise convolution fills its registers."""
    C, H, W = image.shape
    halo = len(kernel) - 1
    # Rounded up to few sizes, because oneDNN compiles for every new shape.
    bands, width = -(-H // (4 * _BAND)) * 4, -(-W // 64) * 64
    rows, columns = bands * _BAND + halo, width + halo
    padded = mirror(image, (halo // 2, halo // 2), (rows, columns))
    cut = padded.as_strided(
        (C, bands, _BAND + halo, columns), (rows * columns, _BAND * columns, columns, 1)
    )
    channels = cut.reshape(1, C * bands, _BAND + halo, columns)
    weights = kernel.expand(C * bands, 1, -1, -1)
    y = functional.conv2d(channels, weights, groups=C * bands)
    return y.view(C, bands * _BAND, width)[:, :H, :W].contiguous()


def _by_fourier(image: Tensor, kernel: Tensor) -> Tensor:
    _, H, W = image.shape
    halo = len(kernel) - 1
    grid = _fast_fft_size(H + halo), _fast_fft_size(W + halo)
    # The kernel's first transform skips empty rows.
    response = torch.fft.fft(torch.fft.rfft(kernel, grid[1]), grid[0], dim=0).conj_physical_()
    y = torch.empty_like(image)
    # Plane by plane, because one fits into the cache.
    for plane, target in zip(mirror(image, (halo // 2, halo // 2), grid), y, strict=True):
        target.copy_(torch.fft.irfft2(torch.fft.rfft2(plane).mul_(response), grid)[:H, :W])
    return y


def _fast_fft_size(n: int) -> int:
    """Return the next even length that is a product of 2, 3 and 5."""
    import cv2

    size = int(cv2.getOptimalDFTSize(n))
    while size % 2:
        size = int(cv2.getOptimalDFTSize(size + 1))
    return size


def mirror(image: Tensor, pad: tuple[int, int], size: tuple[int, int]) -> Tensor:
    """Mirror the borders of an image on the CPU: `pad` above and left, the rest opposite.

    Args:
        image: (C, H, W) float32, contiguous.
        pad: Width of the upper and of the left border.
        size: (rows, columns) of the result.
    """
    import cv2

    C, H, W = image.shape
    (above, left), (rows, columns) = pad, size
    below, right = rows - H - above, columns - W - left
    y = image.new_empty(C, rows, columns)
    for plane, target in zip(image.numpy(), y.numpy(), strict=True):
        cv2.copyMakeBorder(
            plane, above, below, left, right, borderType=cv2.BORDER_REFLECT_101, dst=target
        )
    return y
