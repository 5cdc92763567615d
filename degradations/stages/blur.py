"""Blur stages, their kernels and the convolution.

Every function of a kernel maps (B,) tensors to (B, K, K) with K = 2 extent + 1. Row and column
numbers grow downwards and to the right; the centre is (extent, extent). A kernel is the image of a
point: `convolve` flips it for correlations.

Borders are mirrored without repeating edge pixels, as often as a small image requires. On one core
of a Zen 5, for 3 channels of 256 px and 21 x 21 taps, in one run: 0.6 ms for a separable kernel
(OpenCV's row and column filters), 1.8 ms for others (FFT), 5.2 ms by OpenCV's `filter2D`, 6.5 ms by
torch's `conv2d` and 6.7 ms by kornia's `filter2d`. The canvas uses FFT.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from functools import partial
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from degradations.base import (
    Canvas,
    DeviceStage,
    ImageFunction,
    IntegerRange,
    Range,
    Size,
    check_range,
)
from degradations.draws import Booleans, Draws, Floats, Params, check_probabilities
from files.numbers import UnitInterval

Families: TypeAlias = tuple[float, float, float, float, float, float]

_TAIL = 1e-5  # outer rings of a kernel with less mass in total are dropped
_SEPARABLE = 1e-6  # sum of absolute differences from the product of a column and a row
_ONE_TILE = 210  # largest side that OpenCV transforms at once
_STEPS = 128  # points along a motion path

#: Sinc kernels below this size draw their cut-off from [pi/3, pi], others from [pi/5, pi].
LARGE_SINC = 13


def prepare_kernels(psf: Tensor) -> Params:
    """Prepare kernels for `convolve`.

    Args:
        psf: (B, K, K), K odd, sum 1: the image of a point.

    Returns:
        `psf`, and for images on the CPU also `kernels` (B, K, K), flipped for correlations;
        `radius` (B,) int64, the effective radius; `separable` (B,) bool, whether the kernel is the
        product of a column and a row.
    """
    if psf.device.type != "cpu":
        return {"psf": psf}
    kernels = psf.flip((1, 2))
    n = psf.shape[-1] // 2

    # The mass from each ring outwards, (B, n + 1), tells how many rings to keep.
    column_distance = torch.arange(-n, n + 1, device=psf.device).abs()
    row_distance = column_distance.view(-1, 1)
    ring = torch.maximum(column_distance, row_distance).view(-1, 1)
    first_ring = torch.arange(n + 1, device=psf.device)
    is_outside = (ring >= first_ring).to(psf.dtype)
    mass = kernels.abs().flatten(1) @ is_outside
    radius = (mass > _TAIL).sum(1) - 1

    # If it is separable, the middle column and row give the whole kernel.
    row = kernels[:, n : n + 1]
    column = kernels[:, :, n : n + 1]
    centre = kernels[:, n : n + 1, n : n + 1]
    product = column * row / centre  # 0 / 0 is NaN, not separable
    difference = (kernels - product).abs().sum((1, 2))
    return {
        "psf": psf,
        "kernels": kernels,
        "radius": radius,
        "separable": difference < _SEPARABLE,
    }


def convolve(x: Tensor, kernel: Tensor, radius: int, separable: bool) -> Tensor:
    """Convolve an image on the CPU with a kernel.

    Args:
        x: (1, C, H, W) float32.
        kernel: (K, K), flipped, with its effective radius, as of `prepare_kernels`.
        radius: The effective radius.
        separable: Whether the kernel is the product of a column and a row.
    """
    if radius == 0:
        return x
    image = x[0].contiguous()
    n = len(kernel) // 2
    rings = slice(n - radius, n + radius + 1)
    kernel = kernel[rings, rings]
    if separable:
        y = _by_rows_and_columns(image, kernel)
    elif radius <= 5 or max(image.shape) <= _ONE_TILE:  # where OpenCV is faster
        y = _by_opencv(image, kernel)
    else:
        y = _by_fourier(image, kernel)
    return y.unsqueeze(0)


def convolve_canvas(canvas: Canvas, psf: Tensor) -> Canvas:
    """Convolve all images by FFT; a GPU's direct convolution takes ten times as long.

    Args:
        canvas: The images.
        psf: (B, K, K), or (1, K, K) for all images, K odd.
    """
    H, W = canvas.pixels.shape[-2:]
    K = psf.shape[-1]
    grid = (_fast_fft_size(H + K - 1), _fast_fft_size(W + K - 1))
    padded = canvas.reflected(K // 2, grid)
    spectra = torch.fft.rfft2(padded)
    response = torch.fft.rfft2(psf, grid).unsqueeze(1)
    wrapped = torch.fft.irfft2(spectra * response, grid)
    # The first K - 1 rows and columns wrap around.
    blurred = wrapped[..., K - 1 :, K - 1 :]
    return canvas.with_pixels(blurred[..., :H, :W])


def _by_rows_and_columns(image: Tensor, kernel: Tensor) -> Tensor:
    """Convolve (C, H, W) with a separable kernel by OpenCV."""
    import cv2

    # A separable kernel is its middle column times its middle row, divided by its centre.
    taps = kernel.numpy()
    n = len(taps) // 2
    row = taps[n]
    column = taps[:, n] / taps[n, n]
    y = torch.empty_like(image)
    for plane, target in zip(image.numpy(), y.numpy(), strict=True):
        cv2.sepFilter2D(
            plane,
            -1,
            row,
            column,
            dst=target,
            borderType=cv2.BORDER_REFLECT_101,
        )
    return y


def _by_opencv(image: Tensor, kernel: Tensor) -> Tensor:
    """Convolve (C, H, W) with any kernel by OpenCV, fast for small kernels or images."""
    # Tap by tap up to 11 x 11; larger kernels by a transform, fast while one tile is enough.
    import cv2

    taps = kernel.contiguous().numpy()
    y = torch.empty_like(image)
    for plane, target in zip(image.numpy(), y.numpy(), strict=True):
        cv2.filter2D(
            plane,
            -1,
            taps,
            dst=target,
            borderType=cv2.BORDER_REFLECT_101,
        )
    return y


def _by_fourier(image: Tensor, kernel: Tensor) -> Tensor:
    """Convolve (C, H, W) with any kernel by FFT, fast for large kernels on large images."""
    _, H, W = image.shape
    n = len(kernel) // 2
    grid = (_fast_fft_size(H + 2 * n), _fast_fft_size(W + 2 * n))
    # Rows first, so that the transform skips the empty ones.
    grid_rows, grid_columns = grid
    row_spectra = torch.fft.rfft(kernel, grid_columns)
    spectrum = torch.fft.fft(row_spectra, grid_rows, dim=0)
    response = spectrum.conj_physical_()  # correlates, as the kernel is flipped
    padded = mirror(image, (n, n), grid)
    y = torch.empty_like(image)
    # Plane by plane, because one fits into the cache.
    for plane, target in zip(padded, y, strict=True):
        spectrum = torch.fft.rfft2(plane).mul_(response)
        blurred = torch.fft.irfft2(spectrum, grid)
        target.copy_(blurred[:H, :W])
    return y


def _fast_fft_size(n: int) -> int:
    """Return the next even length that is a product of 2, 3 and 5."""
    size = n + n % 2
    while 30**16 % size:  # which products of 2, 3 and 5 divide, up to their 16th powers
        size += 2
    return size


def mirror(
    image: Tensor,
    pad: tuple[int, int],
    size: Size,
) -> Tensor:
    """Mirror the borders of an image on the CPU: `pad` above and left, the rest opposite.

    Args:
        image: (C, H, W) float32, contiguous.
        pad: Width of the upper and of the left border.
        size: (rows, columns) of the result.
    """
    import cv2

    C, H, W = image.shape
    above, left = pad
    rows, columns = size
    below = rows - H - above
    right = columns - W - left
    y = image.new_empty(C, rows, columns)
    for plane, target in zip(image.numpy(), y.numpy(), strict=True):
        cv2.copyMakeBorder(
            plane, above, below, left, right, borderType=cv2.BORDER_REFLECT_101, dst=target
        )
    return y


def squared_distance(
    sigma_x: Tensor,
    sigma_y: Tensor,
    rotation: Tensor,
    extent: int,
) -> Tensor:
    """Return the squared distance from the centre in standard deviations, d' S^-1 d.

    Args:
        sigma_x: (B,) standard deviation along the first axis, in pixels, above 0.
        sigma_y: (B,) standard deviation along the second axis.
        rotation: (B,) radians, from the column axis towards the row axis; the covariance is
            S = U diag(sigma_x^2, sigma_y^2) U' with rotation U, for d = (column, row).
        extent: Largest distance along a row.
    """
    column = _axis(extent, sigma_x)
    row = column.view(-1, 1)
    cos = rotation.cos().view(-1, 1, 1)
    sin = rotation.sin().view(-1, 1, 1)
    # Rotated first, then squared: both terms are positive, which avoids cancellation.
    along_x = cos * column + sin * row
    along_y = cos * row - sin * column
    u = along_x / sigma_x.view(-1, 1, 1)
    v = along_y / sigma_y.view(-1, 1, 1)
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
    generalised_gaussian = torch.exp(-0.5 * power)
    flat_bell = 1 / (1 + power)
    return torch.where(plateau.view(-1, 1, 1), flat_bell, generalised_gaussian)


def sinc(cutoff: Tensor, extent: int) -> Tensor:
    """Return the ideal circular low-pass filter w J1(w r) / (2 pi r), not normalised.

    Args:
        cutoff: (B,) angular frequency w in radians per pixel, up to pi.
        extent: Largest distance along a row.

    Source: Real-ESRGAN (Wang et al., 2021; arXiv 2107.10833), its sinc filter.
    """
    # One quarter, mirrored, because the Bessel function dominates the cost.
    axis = torch.arange(extent + 1, device=cutoff.device, dtype=cutoff.dtype)
    square = axis.square()
    radius = (square + square.view(-1, 1)).sqrt()
    # Gives the limit w^2 / (4 pi) in the centre, to 1e-9.
    radius = radius.clamp_min(1e-4)
    w = cutoff.view(-1, 1, 1)
    bessel = torch.special.bessel_j1(w * radius)
    return _unfolded(w / (2 * math.pi) * bessel / radius)


def motion(
    length: Tensor,
    angle: Tensor,
    direction: Tensor,
    extent: int,
) -> Tensor:
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
    steps = torch.arange(_STEPS, device=length.device, dtype=length.dtype)
    time = (2 * steps + 1) / _STEPS - 1  # midpoints of [-1, 1]
    brightness = 1 + direction.view(-1, 1) * time
    light = brightness / _STEPS

    distance = time * length.view(-1, 1) / 2
    radians = torch.deg2rad(angle).view(-1, 1)
    x = distance * radians.cos()
    y = -distance * radians.sin()

    # Bilinear weights of each point of the path in each column and row, (B, _STEPS, K).
    axis = _axis(extent, length)
    column_distance = (axis - x.unsqueeze(2)).abs()
    row_distance = (axis - y.unsqueeze(2)).abs()
    columns = (1 - column_distance).clamp_min(0)
    rows = (1 - row_distance).clamp_min(0)
    spread = rows * light.unsqueeze(2)
    return torch.bmm(spread.transpose(1, 2), columns)


def disk(radius: Tensor, extent: int) -> Tensor:
    """Return the share of each pixel that a disk covers; the sum is the area of the disk.

    Args:
        radius: (B,) pixels, above 0, at most `extent`.
        extent: Largest distance along a row.
    """
    # One quarter, mirrored; its first row and column are half pixels. In a row of pixels the edge
    # of the disk runs from column x1 (at the far side of the row) to x0; the integral of its height
    # has a closed form.
    pixels = torch.arange(extent + 2, device=radius.device, dtype=radius.dtype)
    edges = pixels - 0.5
    near = edges[:-1].clamp_min(0)
    far = edges[1:]
    near_rows = near.view(-1, 1)
    far_rows = far.view(-1, 1)
    R = radius.view(-1, 1, 1)
    R_squared = R.square()
    x0 = (R_squared - near_rows.square()).clamp_min(0).sqrt()
    x1 = (R_squared - far_rows.square()).clamp_min(0).sqrt()

    def integral(x: Tensor) -> Tensor:
        """Integrate the height of the disk from 0 to x."""
        height = (R_squared - x.square()).clamp_min(0).sqrt()
        sector = R_squared * (x / R).clamp_max(1).asin()
        return (x * height + sector) / 2

    # The part of a pixel that the edge crosses, and the part left of x1, which is covered fully.
    left = torch.minimum(torch.maximum(near, x1), x0)
    right = torch.minimum(torch.maximum(far, x1), x0)
    area = integral(right) - integral(left)
    partial = area - near_rows * (right - left)
    full_width = (torch.minimum(far, x1) - near).clamp_min(0)
    full = full_width * (far_rows - near_rows)
    quarter = (partial + full).clamp_min(0)
    is_half = edges[:-1] < 0
    doubled = 1 + is_half.to(radius.dtype)
    return _unfolded(quarter * doubled * doubled.view(-1, 1))


def normalized(kernels: Tensor, size: Tensor | None = None) -> Tensor:
    """Set values outside a square of `size` pixels to 0, and divide by the sum.

    Args:
        kernels: (B, K, K).
        size: (B,) odd; by default the whole kernel.
    """
    if size is not None:
        K = kernels.shape[-1]
        index = torch.arange(K, device=kernels.device)
        distance = (index - K // 2).abs()
        radius = (size // 2).view(-1, 1)
        inside = distance <= radius
        square = inside.unsqueeze(1) & inside.unsqueeze(2)
        kernels = kernels * square
    return kernels / kernels.sum((1, 2), keepdim=True)


def _unfolded(quarter: Tensor) -> Tensor:
    """Mirror the lower right quarter (B, n + 1, n + 1) to the whole kernel (B, K, K)."""
    n = quarter.shape[-1] - 1
    distance = torch.arange(-n, n + 1, device=quarter.device).abs()
    return quarter.index_select(1, distance).index_select(2, distance)


def _axis(extent: int, like: Tensor) -> Tensor:
    """Return the offsets from the centre of a kernel, -extent to extent."""
    return torch.arange(-extent, extent + 1, device=like.device, dtype=like.dtype)


class KernelStage(DeviceStage):
    """A stage that convolves each image with its own kernel; subclasses write `draw` and `psf`."""

    @abstractmethod
    def psf(self, params: Params) -> Tensor:
        """Return the kernels (B, K, K) of drawn parameters, K odd, sum 1: images of a point."""

    def prepare(self, params: Params) -> Params:
        """Compute all kernels of the batch, and their radii."""
        if "convolution" in params:
            return params
        kernels = prepare_kernels(self.psf(params))
        return {**params, "convolution": kernels}

    def cpu_functions(self, params: Params, x: Tensor) -> list[ImageFunction]:
        """Return for each image the convolution with its kernel; borders are mirrored."""
        functions: list[ImageFunction] = []
        prepared = self.prepare(params)["convolution"]
        kernels = prepared["kernels"].unbind()
        radii = prepared["radius"].tolist()
        separable = prepared["separable"].tolist()
        for kernel, radius, is_separable in zip(kernels, radii, separable, strict=True):
            function = partial(convolve, kernel=kernel, radius=radius, separable=is_separable)
            functions.append(function)
        return functions

    def on_canvas(self, canvas: Canvas, params: Params) -> Canvas:
        """Convolve all images at once, whatever the radii of their kernels."""
        kernels = self.prepare(params)["convolution"]
        return convolve_canvas(canvas, kernels["psf"])


class Blur(KernelStage):
    """Blur with a kernel of one of six families, or with a ringing low-pass filter (sinc).

    Each family is isotropic or anisotropic, the latter rotated by any angle. The shape parameter
    beta of the generalised families is drawn below 1 and above 1 with equal probability.

    Args:
        kernel_size: Range of the kernel side in pixels; odd, both ends included.
        families: Probabilities of the families: [isotropic Gaussian, anisotropic Gaussian,
            isotropic generalised Gaussian, anisotropic generalised Gaussian, isotropic plateau,
            anisotropic plateau].
        sigma: Range of the standard deviations in pixels, along both axes, before the kernel is
            cut to its size.
        beta_generalized: Range of beta of the generalised Gaussian, around 1 (the Gaussian); lower
            values are pointed, higher ones flat with sharp edges.
        beta_plateau: Range of beta of the plateau, around 1; higher values have sharper edges.
        sinc: Probability of a sinc kernel instead, with cut-offs from [pi/3, pi] for sides below 13
            pixels and from [pi/5, pi] for larger ones.

    Raises:
        ValueError: A range is reversed or impossible, a size is even, or the probabilities are
            invalid.

    Source: Real-ESRGAN (Wang et al., 2021; arXiv 2107.10833) and the data set of its released code;
    sigma is (0.2, 1.5) in its second blur.
    """

    def __init__(
        self,
        kernel_size: IntegerRange = (7, 21),
        families: Families = (0.45, 0.25, 0.12, 0.03, 0.12, 0.03),
        sigma: Range = (0.2, 3.0),
        beta_generalized: Range = (0.5, 4.0),
        beta_plateau: Range = (1.0, 2.0),
        sinc: UnitInterval = 0.1,
    ) -> None:
        super().__init__()
        self.kernel_size = check_sizes(kernel_size)
        self.families = check_probabilities(families, 6, "families")
        self.sigma = check_range(sigma, "sigma", low=1e-3)
        self.beta_generalized = _check_beta(beta_generalized, "beta_generalized")
        self.beta_plateau = _check_beta(beta_plateau, "beta_plateau")
        self.sinc = sinc

    def draw(self, draws: Draws, shape: torch.Size) -> Params:
        """Draw (B,) each: size, family (0 to 5), sigmas, rotation in radians, beta; sinc, cut-off.

        Parameters that a family does not use get their neutral values: an isotropic kernel has
        equal sigmas and rotation 0, a Gaussian has beta 1.
        """
        size = draw_sizes(draws, self.kernel_size)
        is_sinc = draws.bernoulli(self.sinc)
        lowest_cutoff = np.where(size < LARGE_SINC, math.pi / 3, math.pi / 5)
        cutoff = draws.uniform(lowest_cutoff, math.pi)

        family = draws.choice(np.arange(6), self.families)
        is_anisotropic = family % 2 == 1
        is_generalized = family // 2 == 1
        is_plateau = family // 2 == 2
        sigma_x = draws.uniform(*self.sigma)
        sigma_y = draws.uniform(*self.sigma)
        rotation = draws.uniform(-math.pi, math.pi)

        is_below_one = draws.bernoulli(0.5)
        share = draws.uniform()
        beta_generalized = _beta(self.beta_generalized, is_below_one, share)
        beta_plateau = _beta(self.beta_plateau, is_below_one, share)
        beta = np.where(is_generalized, beta_generalized, 1.0)
        return {
            "kernel_size": size,
            "family": family,
            "sigma_x": sigma_x,
            "sigma_y": np.where(is_anisotropic, sigma_y, sigma_x),
            "rotation": np.where(is_anisotropic, rotation, 0.0),
            "beta": np.where(is_plateau, beta_plateau, beta),
            "sinc": is_sinc,
            "cutoff": cutoff,
        }

    def psf(self, params: Params) -> Tensor:
        """Return (B, K, K), K being the largest size of the range."""
        n = self.kernel_size[1] // 2
        squared = squared_distance(params["sigma_x"], params["sigma_y"], params["rotation"], n)
        is_plateau = params["family"] >= 4
        kernel = bell(squared, params["beta"], is_plateau)
        if self.sinc > 0:
            is_sinc = params["sinc"].view(-1, 1, 1)
            rings = sinc(params["cutoff"], n)
            kernel = torch.where(is_sinc, rings, kernel)
        return normalized(kernel, params["kernel_size"])


class Sinc(KernelStage):
    """Filter with an ideal low pass, which rings and overshoots at edges like sharpened images.

    Args:
        kernel_size: Range of the kernel side in pixels; odd, both ends included.
        cutoff: Range of the angular cut-off frequency in radians per pixel, up to pi.

    Raises:
        ValueError: A range is reversed or impossible, or a size is even.

    Source: Real-ESRGAN (Wang et al., 2021; arXiv 2107.10833), the final sinc filter of its released
    code (which applies it with probability 0.8, as `Sometimes` can).
    """

    def __init__(
        self,
        kernel_size: IntegerRange = (7, 21),
        cutoff: Range = (math.pi / 3, math.pi),
    ) -> None:
        super().__init__()
        self.kernel_size = check_sizes(kernel_size)
        # Slightly above pi, so that 3.1416 in a YAML file is valid.
        self.cutoff = check_range(cutoff, "cutoff", low=1e-2, high=3.142)

    def draw(self, draws: Draws, shape: torch.Size) -> Params:
        """Draw `kernel_size` and `cutoff`, (B,) each."""
        return {
            "kernel_size": draw_sizes(draws, self.kernel_size),
            "cutoff": draws.uniform(*self.cutoff),
        }

    def psf(self, params: Params) -> Tensor:
        """Return (B, K, K), K being the largest size of the range."""
        n = self.kernel_size[1] // 2
        kernel = sinc(params["cutoff"], n)
        return normalized(kernel, params["kernel_size"])


class MotionBlur(KernelStage):
    """Blur along a straight line, like a camera that moves during the exposure.

    The angle is any, and the light may fall off towards either end.

    Args:
        length: Range of the length of the line in pixels; 0 does not change the image.

    Raises:
        ValueError: The range is reversed or negative.

    Source: parameters as in kornia's RandomMotionBlur; the kernel is ours, for lines of any length
    (see `degradations.stages.blur.motion`).
    """

    def __init__(self, length: Range = (1.0, 15.0)) -> None:
        super().__init__()
        self.length = check_range(length, "length", low=0.0)

    def draw(self, draws: Draws, shape: torch.Size) -> Params:
        """Draw `length`, `angle` and `direction`, (B,) each."""
        return {
            "length": draws.uniform(*self.length),
            "angle": draws.uniform(0.0, 180.0),
            "direction": draws.uniform(-1.0, 1.0),
        }

    def psf(self, params: Params) -> Tensor:
        """Return (B, K, K), K large enough for the longest line."""
        extent = math.ceil(self.length[1] / 2) + 1
        line = motion(params["length"], params["angle"], params["direction"], extent)
        return normalized(line)


class DefocusBlur(KernelStage):
    """Blur with a disk, like an ideal lens out of focus.

    Args:
        radius: Range of the disk's radius in pixels, above 0; below 0.5 the image does not change.

    Raises:
        ValueError: The range is reversed or reaches 0.

    Source: geometric optics. Each kernel pixel is the share of it that the disk covers, so radii
    are continuous.
    """

    def __init__(self, radius: Range = (0.5, 5.0)) -> None:
        super().__init__()
        self.radius = check_range(radius, "radius", low=1e-3)

    def draw(self, draws: Draws, shape: torch.Size) -> Params:
        """Draw `radius`, (B,)."""
        return {"radius": draws.uniform(*self.radius)}

    def psf(self, params: Params) -> Tensor:
        """Return (B, K, K), K large enough for the widest disk."""
        largest = self.radius[1]
        extent = max(math.ceil(largest - 0.5), 1)
        return normalized(disk(params["radius"], extent))


def draw_sizes(draws: Draws, sizes: IntegerRange) -> npt.NDArray[np.int64]:
    """Draw (B,) odd kernel sizes in a range of odd sizes, ends included."""
    smallest, largest = sizes
    radius = draws.integers(smallest // 2, largest // 2 + 1)
    return 2 * radius + 1


def _beta(
    ends: Range,
    is_below_one: Booleans,
    share: Floats,
) -> Floats:
    """Return (B,) shape parameters, uniform below 1 or above 1."""
    low, high = ends
    below = low + (1 - low) * share
    above = 1 + (high - 1) * share
    return np.where(is_below_one, below, above)


def check_sizes(sizes: IntegerRange) -> IntegerRange:
    """Check and return a range of kernel sides.

    Raises:
        ValueError: It is reversed, or an end is even or below 1.
    """
    if not all(size % 2 for size in sizes):
        raise ValueError(
            f"kernel_size is {list(sizes)}; expected odd sizes: a kernel needs a centre"
        )
    return check_range(sizes, "kernel_size", low=1)


def _check_beta(values: Range, name: str) -> Range:
    """Check and return a range of beta around 1."""
    low, high = check_range(values, name, low=1e-2, high=100.0)
    if not low <= 1.0 <= high:
        raise ValueError(f"{name} is {[low, high]}; expected a range that contains 1")
    return low, high
