"""BSRGAN: blurs, shrinking, noise and JPEG, in an order drawn for each image."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from degradations.base import (
    Canvas,
    ImageFunction,
    IntegerRange,
    Range,
    Stage,
    check_range,
    check_scale,
    in_order,
)
from degradations.compose import OneOf, Shuffled, Sometimes
from degradations.draws import Booleans, Draws, Floats, Integers, Params
from degradations.pipeline import Pipeline
from degradations.recipes.second_order import ToLR
from degradations.stages.blur import (
    KernelStage,
    check_sizes,
    draw_sizes,
    normalized,
    squared_distance,
)
from degradations.stages.jpeg import JPEG
from degradations.stages.noise import seeded_randn_like
from degradations.stages.resize import Modes, Resize, resample, resample_canvas
from files.numbers import UnitInterval

_MODES: Modes = ("area", "bilinear", "bicubic")
_KERNEL_SIZE = 25  # of the Gaussian before sampling
# The upper ends of these ranges depend on the scale.
_LOWEST_SIGMA = 0.1
_LOWEST_VARIANCE = 0.5
_LOWEST_SAMPLE_SIGMA = 0.1


class GaussianBlur(KernelStage):
    """Blur by a Gaussian, isotropic for half of the images and anisotropic for the others.

    Args:
        kernel_size: Range of the kernel size; odd sizes are drawn.
        sigma: Range of the standard deviation of an isotropic kernel in pixels.
        variance: Range of the variances of an anisotropic kernel along its axes, whose rotation is
            drawn.

    Source: BSRGAN (Zhang et al., ICCV 2021; arXiv 2103.14006), section 3.1, numbers for x4.
    """

    def __init__(
        self,
        kernel_size: IntegerRange = (7, 21),
        sigma: Range = (0.1, 2.8),
        variance: Range = (0.5, 8.0),
    ) -> None:
        super().__init__()
        self.kernel_size = check_sizes(kernel_size)
        self.sigma = check_range(sigma, "sigma", low=0.01)
        self.variance = check_range(variance, "variance", low=1e-4)

    def draw(self, draws: Draws, shape: torch.Size) -> Params:
        """Draw size, `isotropic`, `sigma`, `variance_x`, `variance_y`, `rotation`, (B,) each."""
        return {
            "kernel_size": draw_sizes(draws, self.kernel_size),
            "isotropic": draws.bernoulli(0.5),
            "sigma": draws.uniform(*self.sigma),
            "variance_x": draws.uniform(*self.variance),
            "variance_y": draws.uniform(*self.variance),
            "rotation": draws.uniform(0.0, np.pi),
        }

    def psf(self, params: Params) -> Tensor:
        """Return (B, K, K), each with sum 1."""
        isotropic = params["isotropic"]
        sigma = params["sigma"]
        sigma_x = torch.where(isotropic, sigma, params["variance_x"].sqrt())
        sigma_y = torch.where(isotropic, sigma, params["variance_y"].sqrt())
        n = self.kernel_size[1] // 2
        squared = squared_distance(sigma_x, sigma_y, params["rotation"], n)
        gaussian = torch.exp(-0.5 * squared)
        return normalized(gaussian, params["kernel_size"])


class Shrink(Resize):
    """Divide the sides by a drawn number.

    Args:
        by: Range of the divisor, at least 1; the divisor is uniform, not the factor as in `Resize`.

    Source: BSRGAN (Zhang et al., ICCV 2021; arXiv 2103.14006), section 3.2, numbers for x4.
    """

    def __init__(self, by: Range = (1.0, 8.0)) -> None:
        super().__init__(p=(0.0, 1.0, 0.0), modes=_MODES)
        self.by = check_range(by, "by", low=1.0)

    def draw(self, draws: Draws, shape: torch.Size) -> Params:
        """Draw as `Resize.draw`, with the factor 1 / divisor."""
        params = super().draw(draws, shape)
        factor = 1.0 / draws.uniform(*self.by)
        return {**params, **_factor_and_size(factor, shape)}


class SampleGaussian(KernelStage):
    """Blur by an isotropic Gaussian and take every n-th pixel, without a shift.

    Args:
        divisor: The scale: the sides become those of the HR divided by it, rounded.
        sigma: Range of the standard deviation in pixels.

    Source: BSRGAN (Zhang et al., ICCV 2021; arXiv 2103.14006), section 3.2, numbers for x4. The
    released code shifts its kernel by linear interpolation, which widens it; this kernel is
    evaluated at the shifted position.
    """

    resizes = True

    def __init__(self, divisor: float = 4.0, sigma: Range = (0.1, 2.4)) -> None:
        super().__init__()
        self.sigma = check_range(sigma, "sigma", low=0.01)
        self.to_lr = ToLR(divisor, ("nearest",))
        # An even step has no centre pixel: the one to the lower right is taken, so the kernel is
        # shifted by half a pixel to the upper left.
        self.shift = 0.5 if divisor % 2 == 0 else 0.0

    def draw(self, draws: Draws, shape: torch.Size) -> Params:
        """Draw `sigma` (B,), and `resize`, the size."""
        return {
            "sigma": draws.uniform(*self.sigma),
            "resize": self.to_lr.draw(draws.fold("resize"), shape),
        }

    def psf(self, params: Params) -> Tensor:
        """Return (B, K, K), each with sum 1."""
        n = _KERNEL_SIZE // 2
        sigma = params["sigma"].view(-1, 1)
        axis = torch.arange(-n, n + 1, device=sigma.device)
        distance = axis - self.shift
        exponent = -0.5 * (distance / sigma).square()
        # Relative to the largest: a narrow kernel between two pixels would underflow.
        largest = exponent.amax(1, keepdim=True)
        profile = torch.exp(exponent - largest)
        kernel = profile.unsqueeze(2) * profile.unsqueeze(1)
        return normalized(kernel)

    def cpu_functions(self, params: Params, x: Tensor) -> list[ImageFunction]:
        """Return for each image the blur, followed by the sampling to the LR size."""
        size = params["resize"]["size"][0].tolist()
        sample = partial(resample, size=size, mode="nearest")
        blurs = super().cpu_functions(params, x)
        return [partial(in_order, functions=[blur, sample]) for blur in blurs]

    def on_canvas(self, canvas: Canvas, params: Params) -> Canvas:
        """Apply as `forward`."""
        sizes = params["resize"]["size"]
        extent = self.to_lr.extent(canvas.hr_size)
        blurred = super().on_canvas(canvas, params)
        return resample_canvas(blurred, sizes, "nearest", False, extent)


class ChannelNoise(Stage):
    """Add Gaussian noise, whose channels are independent, equal, or randomly correlated.

    Args:
        sigma: Range of the standard deviation in 8-bit levels; integers are drawn.

    Source: BSRGAN (Zhang et al., ICCV 2021; arXiv 2103.14006), section 3.3; the correlation as in
    its released code: the covariance is |U' diag(d) U| L^2 element by element, with d uniform in
    [0, 1), U a random rotation and L always the largest standard deviation.
    """

    pixelwise = True

    def __init__(self, sigma: IntegerRange = (1, 25)) -> None:
        super().__init__()
        self.sigma = check_range(sigma, "sigma", low=0.0)

    def draw(self, draws: Draws, shape: torch.Size) -> Params:
        """Draw `level` in 8-bit levels, `family` (0 to 2, as above) and `field_seeds`, (B,) each.

        Also `factor` (B, 3, 3), by which the field is multiplied, in 8-bit levels.
        """
        least, most = self.sigma
        level = draws.integers(least, most + 1)
        family = draws.choice([0, 1, 2], (0.4, 0.4, 0.2))
        diagonal = [draws.uniform() for _ in range(3)]
        entries = [draws.uniform() for _ in range(9)]

        levels = level[:, None, None]
        independent = np.eye(3) * levels
        equal = np.zeros((3, 3))
        equal[:, 0] = 1.0  # all channels are the first one of the field
        matrices = np.stack(entries, axis=1).reshape(-1, 3, 3)
        diagonals = np.stack(diagonal, axis=1)
        correlated = _correlation(matrices, diagonals) * most
        families = family[:, None, None]
        factor = np.where(families == 1, equal * levels, independent)
        factor = np.where(families == 2, correlated, factor)
        return {
            "level": level,
            "family": family,
            "factor": factor,
            "field_seeds": draws.seeds(),
        }

    def forward(self, x: Tensor, params: Params) -> Tensor:
        """Add its field to each image, (B, 3, H, W), and clamp to [0, 1]."""
        field = seeded_randn_like(x, params["field_seeds"])
        factor = params["factor"] / 255.0
        noise = torch.matmul(factor, field.flatten(2))
        noisy = x + noise.view(x.shape)
        return noisy.clamp(0.0, 1.0)


class _ShuffledInOrder(Shuffled):
    """Apply stages in an order drawn per image, with `shrink` before `to_lr`."""

    def draw(self, draws: Draws, shape: torch.Size) -> Params:
        """Draw as `Shuffled.draw`; the two stages change places if their order is wrong."""
        params = super().draw(draws, shape)
        order: Integers = params["order"]
        names = list(self.stages)
        shrink = names.index("shrink")
        to_lr = names.index("to_lr")
        shrink_place = np.argmax(order == shrink, axis=1)
        to_lr_place = np.argmax(order == to_lr, axis=1)
        images = np.arange(len(order))
        # The stages take their own two places again, the earlier one first.
        order[images, np.minimum(shrink_place, to_lr_place)] = shrink
        order[images, np.maximum(shrink_place, to_lr_place)] = to_lr
        return params


class BSRGAN(Pipeline):
    """Two blurs, two resizes, noise and JPEG in any order, then JPEG again.

    The streams are named `halve`, `shuffled` (containing `blur`, `blur2`, `shrink`, `to_lr`,
    `noise`, `jpeg`) and `final_jpeg`.

    There is no camera. The paper has one with probability 0.25, by a network of the authors; the
    released function gets this network as `isp_model`, which is None by default, and then leaves
    the camera out.

    Ranges are the paper's; the interpolations of resizing and the probability of JPEG are those of
    the released code. That differs from the paper: kernel sizes up to 25; variances and deviations
    from 0; noise levels from 2. Here, kernels are not shifted by interpolation.

    On a canvas the shuffled stages run 31 times in all. Prefer the executor ``images``, unless the
    device has time to spare.

    Args:
        scale: How many times smaller the LR is; any positive number. Linked to
            data.init_args.scale.
        halve: Probability that the image is halved first. Only at scale 4, as in the source; all
            ranges are then those of x2.
        kernel_size: Range of the sizes of blur kernels; odd sizes are drawn.
        sigma: Range of the standard deviation of the noise in 8-bit levels; integers are drawn.
        jpeg: Probability of the shuffled JPEG.
        jpeg_quality: Range of the quality of both JPEGs.
        compile: As in `Pipeline`, but not by default: the graph has 2.5 times the operators of
            Real-ESRGAN's, and compiling it takes many minutes.

    Source: Zhang et al., "Designing a Practical Degradation Model for Deep Blind Image
    Super-Resolution" (ICCV 2021; arXiv 2103.14006).
    """

    def __init__(
        self,
        scale: float,
        halve: UnitInterval = 0.25,
        kernel_size: IntegerRange = (7, 21),
        sigma: IntegerRange = (1, 25),
        jpeg: UnitInterval = 0.9,
        jpeg_quality: IntegerRange = (30, 95),
        compile: bool | None = False,
        **kwargs: Any,
    ) -> None:
        s = check_scale(scale)
        stages: dict[str, Stage] = {}
        if s == 4.0:
            halves: dict[str, Stage] = {
                "plain": _halving(_MODES, antialias=False),
                "antialiased": _halving(("bicubic",), antialias=True),
            }
            stages["halve"] = Sometimes(OneOf(halves), halve)

        blur_sigma = (_LOWEST_SIGMA, 2.0 + 0.2 * s)
        blur_variance = (_LOWEST_VARIANCE, 4.0 + s)
        sample_sigma = (_LOWEST_SAMPLE_SIGMA, max(0.6 * s, _LOWEST_SAMPLE_SIGMA))
        largest_divisor = max(2.0 * s, 1.0)
        shrinks: dict[str, Stage] = {
            "resize": Shrink((1.0, largest_divisor)),
            "sample": SampleGaussian(s, sample_sigma),
        }
        shuffled: dict[str, Stage] = {
            "blur": GaussianBlur(kernel_size, blur_sigma, blur_variance),
            "blur2": GaussianBlur(kernel_size, blur_sigma, blur_variance),
            "shrink": OneOf(shrinks, (0.75, 0.25)),
            "to_lr": ToLR(s, _MODES),
            "noise": ChannelNoise(sigma),
            "jpeg": Sometimes(JPEG(jpeg_quality), jpeg),
        }
        stages["shuffled"] = _ShuffledInOrder(shuffled)
        stages["final_jpeg"] = JPEG(jpeg_quality)
        super().__init__(scale, stages, compile=compile, **kwargs)

    def draw(self, draws: Draws, shape: torch.Size) -> Params:
        """Draw one entry per stage; halved images have the ranges of x2."""
        params = super().draw(draws, shape)
        if "halve" not in params:
            return params
        halved = params["halve"]["applied"]
        shuffled = params["shuffled"]
        for name in ("blur", "blur2"):
            blur = shuffled[name]
            blur["sigma"] = _rescaled(halved, blur["sigma"], _LOWEST_SIGMA, 2.8, 2.4)
            for axis in ("variance_x", "variance_y"):
                blur[axis] = _rescaled(halved, blur[axis], _LOWEST_VARIANCE, 8.0, 6.0)
        sample = shuffled["shrink"]["sample"]
        sample["sigma"] = _rescaled(halved, sample["sigma"], _LOWEST_SAMPLE_SIGMA, 2.4, 1.2)
        resize = shuffled["shrink"]["resize"]
        divisor = _rescaled(halved, 1.0 / resize["factor"], 1.0, 8.0, 4.0)
        halving = np.where(halved, 0.5, 1.0)  # sizes are relative to the HR before it was halved
        resize.update(_factor_and_size(halving / divisor, shape))
        return params


def _halving(modes: Modes, antialias: bool) -> Resize:
    """Return a stage that halves both sides."""
    always_down = (0.0, 1.0, 0.0)
    return Resize(down=(0.5, 0.5), p=always_down, modes=modes, antialias=antialias)


def _factor_and_size(factor: Floats, shape: torch.Size) -> Params:
    """Return the factors (B,) and the sizes (B, 2) to which they resize the HR, at least 1."""
    hr_size = np.array(shape[-2:])
    scaled = hr_size * factor[:, None]
    size = np.maximum(np.floor(scaled), 1)
    return {"size": size.astype(np.int64), "factor": factor}


def _rescaled(
    mask: Booleans,
    values: Floats,
    low: float,
    high: float,
    to: float,
) -> Floats:
    """Rescale values drawn in [low, high] to [low, to], for the images in the mask."""
    ratio = (to - low) / (high - low)
    rescaled = low + (values - low) * ratio
    return np.where(mask, rescaled, values)


def _correlation(entries: Floats, diagonal: Floats) -> Floats:
    """Return (B, 3, 3) square roots of |U' diag(d) U|, U orthonormal bases of `entries`."""
    bases, _, _ = np.linalg.svd(entries)  # of random matrices, random rotations
    scaled = diagonal[:, :, None] * bases
    covariance = np.abs(bases.transpose(0, 2, 1) @ scaled)
    # The elementwise absolute value may leave a negative eigenvalue.
    eigenvalues, eigenvectors = np.linalg.eigh(covariance)
    deviations = np.sqrt(np.maximum(eigenvalues, 0.0))
    return eigenvectors * deviations[:, None, :]
