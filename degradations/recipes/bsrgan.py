"""BSRGAN: blurs, shrinking, noise, JPEG and a camera, in an order drawn for each image."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from degradations.base import Canvas, Stage, check_range, check_scale
from degradations.compose import OneOf, Shuffled, Sometimes
from degradations.draws import Booleans, Draws, Floats, Integers, Params, check_probabilities
from degradations.pipeline import Pipeline
from degradations.recipes.second_order import ToLR
from degradations.stages.blur import KernelStage, check_sizes, normalized, squared_distance
from degradations.stages.camera import Camera
from degradations.stages.jpeg import JPEG
from degradations.stages.noise import seeded_randn_like
from degradations.stages.resize import Modes, Resize, resample, resample_canvas
from files.numbers import UnitInterval

_MODES: Modes = ("area", "bilinear", "bicubic")
_SIGMA, _VARIANCE, _SAMPLED = 0.1, 0.5, 0.1  # lower ends; the upper ends depend on the scale
# Contains every order with `shrink` before `to_lr`. Of those that a random search found it has the
# fewest operators: a resize takes ten times as many as a blur.
_SCHEDULE = (
    "camera noise blur blur2 shrink jpeg noise blur blur2 to_lr camera blur2 blur noise jpeg "
    "shrink blur2 noise blur camera to_lr blur2 jpeg noise blur camera shrink blur2 to_lr "
    "noise blur2 blur jpeg camera blur2 noise to_lr blur blur2"
)


class GaussianBlur(KernelStage):
    """Blur by a Gaussian, isotropic for half of the images and anisotropic for the others.

    Args:
        kernel_size: Range of the kernel size; odd sizes are drawn.
        sigma: Range of the standard deviation of an isotropic kernel in pixels.
        variance: Range of the variances of an anisotropic kernel along its axes, whose rotation is
            drawn.
        isotropic: Probability of an isotropic kernel.

    Source: BSRGAN (Zhang et al., ICCV 2021; arXiv 2103.14006), section 3.1, numbers for x4.
    """

    def __init__(
        self,
        kernel_size: tuple[int, int] = (7, 21),
        sigma: tuple[float, float] = (0.1, 2.8),
        variance: tuple[float, float] = (0.5, 8.0),
        isotropic: UnitInterval = 0.5,
    ) -> None:
        super().__init__()
        self.kernel_size = check_sizes(kernel_size)
        self.sigma = check_range(sigma, "sigma", low=0.01)
        self.variance = check_range(variance, "variance", low=1e-4)
        self.isotropic = isotropic

    def draw(self, draws: Draws, shape: torch.Size) -> Params:
        """Draw size, `isotropic`, `sigma`, `variance_x`, `variance_y`, `rotation`, (B,) each."""
        low, high = self.kernel_size
        return {
            "kernel_size": 2 * draws.integers(low // 2, high // 2 + 1) + 1,
            "isotropic": draws.bernoulli(self.isotropic),
            "sigma": draws.uniform(*self.sigma),
            "variance_x": draws.uniform(*self.variance),
            "variance_y": draws.uniform(*self.variance),
            "rotation": draws.uniform(0.0, np.pi),
        }

    def psf(self, params: Params) -> Tensor:
        """Return (B, K, K), each with sum 1."""
        x, y = (
            torch.where(params["isotropic"], params["sigma"], params[name].sqrt())
            for name in ("variance_x", "variance_y")
        )
        squared = squared_distance(x, y, params["rotation"], self.kernel_size[1] // 2)
        return normalized(torch.exp(-0.5 * squared), params["kernel_size"])


class Shrink(Resize):
    """Divide the sides by a drawn number.

    Args:
        by: Range of the divisor, at least 1; the divisor is uniform, not the factor as in `Resize`.
        modes: Kernels to choose from, as in `Resize`.

    Source: BSRGAN (Zhang et al., ICCV 2021; arXiv 2103.14006), section 3.2, numbers for x4.
    """

    def __init__(self, by: tuple[float, float] = (1.0, 8.0), modes: Modes = _MODES) -> None:
        super().__init__(p=(0.0, 1.0, 0.0), modes=modes)
        self.by = check_range(by, "by", low=1.0)

    def draw(self, draws: Draws, shape: torch.Size) -> Params:
        """Draw as `Resize.draw`."""
        return {**super().draw(draws, shape), **_sides(1.0 / draws.uniform(*self.by), shape)}


class SampleGaussian(KernelStage):
    """Blur by an isotropic Gaussian and take every n-th pixel, without a shift.

    Args:
        divisor: The scale: the sides become those of the HR divided by it, rounded.
        sigma: Range of the standard deviation in pixels.
        kernel_size: Kernel size, odd.

    Source: BSRGAN (Zhang et al., ICCV 2021; arXiv 2103.14006), section 3.2, numbers for x4. The
    released code shifts its kernel by linear interpolation, which widens it; this kernel is
    evaluated at the shifted position.
    """

    resizes = True

    def __init__(
        self,
        divisor: float = 4.0,
        sigma: tuple[float, float] = (0.1, 2.4),
        kernel_size: int = 25,
    ) -> None:
        super().__init__()
        self.sigma = check_range(sigma, "sigma", low=0.01)
        self.kernel_size, _ = check_sizes((kernel_size, kernel_size))
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
        n, sigma = self.kernel_size // 2, params["sigma"].view(-1, 1)
        axis = torch.arange(-n, n + 1, device=sigma.device) - self.shift
        # Relative to the largest: a narrow kernel between two pixels would underflow.
        power = -0.5 * (axis / sigma).square()
        profile = torch.exp(power - power.amax(1, keepdim=True))
        return normalized(profile.unsqueeze(2) * profile.unsqueeze(1))

    def forward(self, x: Tensor, params: Params) -> Tensor:
        """Blur and sample (B, C, H, W) to the LR size."""
        size = params["resize"]["size"][0].tolist()
        return resample(super().forward(x, params), size, "nearest")

    def on_canvas(self, canvas: Canvas, params: Params) -> Canvas:
        """Apply as `forward`."""
        sizes, extent = params["resize"]["size"], self.to_lr.extent(canvas.hr_size)
        blurred = super().on_canvas(canvas, params)
        return resample_canvas(blurred, sizes, "nearest", False, extent)


class ChannelNoise(Stage):
    """Add Gaussian noise: independent channels, equal channels, or correlated channels.

    Args:
        sigma: Range of the standard deviation in 8-bit levels; integers are drawn.
        p: Probabilities of independent, equal and randomly correlated channels.

    Source: BSRGAN (Zhang et al., ICCV 2021; arXiv 2103.14006), section 3.3; the correlation as in
    its released code: the covariance is |U' diag(d) U| L^2 element by element, with d uniform in
    [0, 1), U a random rotation and L always the largest standard deviation.
    """

    pixelwise = True

    def __init__(
        self,
        sigma: tuple[int, int] = (1, 25),
        p: tuple[float, float, float] = (0.4, 0.4, 0.2),
    ) -> None:
        super().__init__()
        self.sigma = check_range(sigma, "sigma", low=0.0)
        self.p = check_probabilities(p, 3)

    def draw(self, draws: Draws, shape: torch.Size) -> Params:
        """Draw `level` in 8-bit levels, `family` (an index of `p`) and `field_seeds`, (B,) each.

        Also `factor` (B, 3, 3), by which the field is multiplied, in 8-bit levels.
        """
        level = draws.integers(self.sigma[0], self.sigma[1] + 1)
        family = draws.choice([0, 1, 2], self.p)
        d = np.stack([draws.uniform() for _ in range(3)], axis=1)
        entries = np.stack([draws.uniform() for _ in range(9)], axis=1).reshape(-1, 3, 3)
        grey = np.zeros((3, 3))
        grey[:, 0] = 1.0
        choices = [np.eye(3), grey]
        factor = np.stack([choices[min(f, 1)] * v for f, v in zip(family, level, strict=True)])
        correlated = _correlation(entries, d) * self.sigma[1]
        factor = np.where((family == 2)[:, None, None], correlated, factor)
        return {"level": level, "family": family, "factor": factor, "field_seeds": draws.seeds()}

    def forward(self, x: Tensor, params: Params) -> Tensor:
        """Add its field to each image, (B, 3, H, W), and clamp to [0, 1]."""
        field = seeded_randn_like(x, params["field_seeds"])
        noise = torch.matmul(params["factor"] / 255.0, field.flatten(2)).view(x.shape)
        return (x + noise).clamp(0.0, 1.0)


class _ShuffledInOrder(Shuffled):
    """Apply stages in an order drawn per image, with `shrink` before `to_lr`."""

    def draw(self, draws: Draws, shape: torch.Size) -> Params:
        """Draw as `Shuffled.draw`; the two stages change places if their order is wrong."""
        params = super().draw(draws, shape)
        order: Integers = params["order"]
        first, second = (list(self.stages).index(name) for name in ("shrink", "to_lr"))
        places = [np.argmax(order == number, axis=1) for number in (first, second)]
        images = np.arange(len(order))
        order[images, np.minimum(*places)] = first
        order[images, np.maximum(*places)] = second
        return params

    def schedule(self) -> Sequence[int]:
        """Return the indices of `_SCHEDULE`."""
        return [list(self.stages).index(name) for name in _SCHEDULE.split()]


class BSRGAN(Pipeline):
    """Two blurs, two resizes, noise, JPEG and a camera in any order, then JPEG again.

    The streams are named `halve`, `shuffled` (containing `blur`, `blur2`, `shrink`, `to_lr`,
    `noise`, `jpeg`, `camera`) and `final_jpeg`.

    Ranges are the paper's; the interpolations of resizing and the probability of JPEG are those of
    the released code. That differs from the paper: kernel sizes up to 25; variances and deviations
    from 0; noise levels from 2; no camera without the authors' network for it (here `Camera`).
    Here, kernels are not shifted by interpolation.

    On a canvas the shuffled stages run 39 times in all. Prefer the executor ``images``, unless the
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
        camera: Probability of the camera.
        compile: As in `Pipeline`, but not by default: the graph has 2.5 times the operators of
            Real-ESRGAN's, and compiling it takes many minutes.

    Source: Zhang et al., "Designing a Practical Degradation Model for Deep Blind Image
    Super-Resolution" (ICCV 2021; arXiv 2103.14006).
    """

    def __init__(
        self,
        scale: float,
        halve: UnitInterval = 0.25,
        kernel_size: tuple[int, int] = (7, 21),
        sigma: tuple[int, int] = (1, 25),
        jpeg: UnitInterval = 0.9,
        jpeg_quality: tuple[int, int] = (30, 95),
        camera: UnitInterval = 0.25,
        compile: bool | None = False,
        **kwargs: Any,
    ) -> None:
        s = check_scale(scale)
        down, p = (0.5, 0.5), (0.0, 1.0, 0.0)
        halves: dict[str, Stage] = {
            "plain": Resize(down=down, p=p, modes=_MODES),
            "antialiased": Resize(down=down, p=p, modes=("bicubic",), antialias=True),
        }
        sampled = SampleGaussian(s, (_SAMPLED, max(0.6 * s, _SAMPLED)))
        shrinks: dict[str, Stage] = {"resize": Shrink((1.0, max(2.0 * s, 1.0))), "sample": sampled}
        deviation, variance = (_SIGMA, 2.0 + 0.2 * s), (_VARIANCE, 4.0 + s)
        shuffled: dict[str, Stage] = {
            "blur": GaussianBlur(kernel_size, deviation, variance),
            "blur2": GaussianBlur(kernel_size, deviation, variance),
            "shrink": OneOf(shrinks, (0.75, 0.25)),
            "to_lr": ToLR(s, _MODES),
            "noise": ChannelNoise(sigma),
            "jpeg": Sometimes(JPEG(jpeg_quality), jpeg),
            "camera": Sometimes(Camera(), camera),
        }
        stages: dict[str, Stage] = {
            "halve": Sometimes(OneOf(halves), halve),
            "shuffled": _ShuffledInOrder(shuffled),
            "final_jpeg": JPEG(jpeg_quality),
        }
        if s != 4.0:
            del stages["halve"]
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
            blur["sigma"] = _rescaled(halved, blur["sigma"], _SIGMA, 2.8, 2.4)
            for axis in ("variance_x", "variance_y"):
                blur[axis] = _rescaled(halved, blur[axis], _VARIANCE, 8.0, 6.0)
        sample = shuffled["shrink"]["sample"]
        sample["sigma"] = _rescaled(halved, sample["sigma"], _SAMPLED, 2.4, 1.2)
        resize = shuffled["shrink"]["resize"]
        by = _rescaled(halved, 1.0 / resize["factor"], 1.0, 8.0, 4.0)
        resize.update(_sides(np.where(halved, 0.5, 1.0) / by, shape))
        return params


def _sides(factor: Floats, shape: torch.Size) -> Params:
    size = np.maximum(np.floor(np.array(shape[-2:]) * factor[:, None]), 1)
    return {"size": size.astype(np.int64), "factor": factor}


def _rescaled(where: Booleans, values: Floats, low: float, high: float, to: float) -> Floats:
    """Rescale values drawn in [low, high] to [low, to], for some images."""
    return np.where(where, low + (values - low) * ((to - low) / (high - low)), values)


def _correlation(entries: Floats, d: Floats) -> Floats:
    """Return (B, 3, 3) square roots of |U' diag(d) U|, U orthonormal bases of `entries`."""
    bases = np.linalg.svd(entries)[0]
    covariance = np.abs(bases.transpose(0, 2, 1) @ (d[:, :, None] * bases))
    # The elementwise absolute value may leave a negative eigenvalue.
    values, vectors = np.linalg.eigh(covariance)
    return vectors * np.sqrt(np.maximum(values, 0.0))[:, None, :]
