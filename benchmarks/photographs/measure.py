"""Numbers of each image of a row, its controls, and whether a claim holds.

A control costs no model: bicubic or a regression with grey white noise, and the regression
sharpened. Each is as strong as makes the image's PSNR-Y that of the row. Noise and sharpening pass
many metrics of detail, so a row must beat them at equal PSNR-Y.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from kornia.filters import gaussian_blur2d
from scipy import stats
from torch import Tensor

from benchmarks.photographs.outputs import PARTS, write_png
from callbacks.metrics.base import ImageMetric
from callbacks.metrics.consistency import LRConsistency
from callbacks.metrics.fid import KIDThumb
from callbacks.metrics.niqe import NIQE
from callbacks.metrics.perceptual import LPIPS
from callbacks.metrics.pixels import PSNR, SSIM, psnr, to_pixels
from callbacks.metrics.sets import compute_features, read_image
from callbacks.metrics.swd import SWD
from degradations.draws import seed_of

HIGHER = ("psnr", "ssim", "lr_psnr")
DETAIL = ("niqe", "swd_2")  # what a claim of detail is judged by
ROUNDS = 8  # of the search for the strength of noise
HALVINGS = 20  # of the search for the strength of sharpening
STRONGEST = 16.0  # strength of sharpening where the search begins
SIGMA, RADIUS = 1.0, 3  # of the unsharp mask's Gaussian, in pixels
SHARPENED = "regression, sharpened"
HOLDS, FAILS, OPEN = "holds", "does not hold", "not decided"
Numbers = dict[str, list[float]]  # by metric, a number an image


class Measure:
    """Measures images one by one.

    Args:
        scale: Factor by which they were enlarged, rounded up: the border of PSNR and SSIM.
    """

    def __init__(self, scale: int) -> None:
        self.border = scale
        pairs = (PSNR(border=scale), SSIM(border=scale), LRConsistency(), NIQE(), LPIPS())
        self.metrics: list[ImageMetric] = [metric for metric in pairs if not metric.absent()]
        self.swd = SWD()
        for metric in self.metrics:
            metric.load()

    def image(self, sr: Tensor, hr: Tensor, lr: Tensor, key: str) -> dict[str, float]:
        """Return all numbers of one image, each (1, 3, H, W) in [0, 1]."""
        batch: Any = {"key": [key], "lr": lr}
        found = {metric.name: float(metric.compute(sr, hr, batch)) for metric in self.metrics}
        detail = (self.swd.features(image, batch).double() for image in (sr, hr))
        return found | self.swd.distances(*detail)

    def row(self, outputs: Path, dataset: str, smooth: dict[str, Path]) -> dict[str, Numbers]:
        """Return the numbers of a row and of its controls; of a row without controls, and of HR.

        The sharpened regression is written beside the row's outputs, so that it can be shown.

        Args:
            outputs: Folder with ``sr``, ``hr`` and ``lr``.
            dataset: Name of the dataset, their folder in these.
            smooth: Folders of the outputs that controls are made of: ``bicubic``, ``regression``.
        """
        found: dict[str, Numbers] = {}
        for file in sorted((outputs / "sr" / dataset).rglob("*.png")):
            key = file.relative_to(outputs / "sr").as_posix()
            sr, hr, lr = (read_image(outputs / part / key) for part in PARTS)
            images = {"row": sr} if smooth else {"row": sr, "hr": hr}
            target = psnr_y(sr, hr, self.border)
            for name, folder in smooth.items():
                image = read_image(folder / "sr" / key)
                images[f"{name} + noise"] = noisy(image, hr, target, self.border, key)
                if name == "regression":
                    images[SHARPENED] = sharpened(image, hr, target, self.border)
                    write_png(outputs / SHARPENED / key, images[SHARPENED])
            for name, image in images.items():
                numbers = found.setdefault(name, {})
                for metric, value in self.image(image, hr, lr, key).items():
                    if math.isfinite(value):  # PSNR of HR is not
                        numbers.setdefault(metric, []).append(value)
        return found


def samples(outputs: Path, dataset: str) -> Numbers:
    """Return distances between images made without LR and photographs, with a value an image.

    The values are the jackknife's: from the distance of the whole sets and from the one without the
    image (and a photograph). Their mean is the distance less its bias of small sets.

    Args:
        outputs: Folder with ``sr`` and ``hr``.
        dataset: Name of the dataset, their folder in these.
    """
    found: Numbers = {}
    files = sorted((outputs / "sr" / dataset).rglob("*.png"))
    keys = [file.relative_to(outputs / "sr").as_posix() for file in files]
    for metric in (SWD(levels=2), KIDThumb()):
        sr, hr = (
            torch.from_numpy(
                compute_features(metric, {key: outputs / part / key for key in keys})
            ).double()
            for part in ("sr", "hr")
        )
        whole, count = metric.distances(sr, hr), len(keys)
        for left in range(count):
            rest = torch.arange(count) != left
            for name, value in metric.distances(sr[rest], hr[rest]).items():
                found.setdefault(name, []).append(count * whole[name] - (count - 1) * value)
    return found


def noisy(smooth: Tensor, hr: Tensor, target: float, border: int, key: str) -> Tensor:
    """Return an image with as much grey noise as lowers its PSNR-Y to a target.

    Args:
        smooth: (1, 3, H, W) in [0, 1].
        hr: The same.
        target: PSNR in dB; an image that is below it already gets no noise.
        border: Pixels that the PSNR does not count.
        key: The image's name, the seed of the noise.
    """
    draws = np.random.default_rng(seed_of("grey noise", key))
    grain = torch.from_numpy(draws.standard_normal((1, 1, *hr.shape[-2:]))).float()
    lack = _error(target) - _error(psnr_y(smooth, hr, border))
    if lack <= 0:
        return smooth
    strength = math.sqrt(lack)
    for _ in range(ROUNDS):  # clamping takes some of the noise away
        image = _rounded(smooth + strength * grain)
        reached = _error(psnr_y(image, hr, border)) - _error(psnr_y(smooth, hr, border))
        strength *= math.sqrt(lack / reached)
    return image


def sharpened(smooth: Tensor, hr: Tensor, target: float, border: int) -> Tensor:
    """Return an image, sharpened by an unsharp mask until its PSNR-Y falls to a target.

    Args:
        smooth: (1, 3, H, W) in [0, 1].
        hr: The same.
        target: PSNR in dB; an image that is below it already is not sharpened.
        border: Pixels that the PSNR does not count.
    """
    detail = smooth - gaussian_blur2d(smooth, (2 * RADIUS + 1,) * 2, (SIGMA, SIGMA), "reflect")
    weakest, strongest = 0.0, STRONGEST
    for _ in range(HALVINGS):
        strength = (weakest + strongest) / 2
        image = _rounded(smooth + strength * detail)
        if psnr_y(image, hr, border) > target:
            weakest = strength
        else:
            strongest = strength
    return _rounded(smooth + weakest * detail)


def _rounded(image: Tensor) -> Tensor:
    """Return an image as a file of 8 bits holds it."""
    return (image.clamp(0, 1) * 255).round() / 255


def psnr_y(sr: Tensor, hr: Tensor, border: int) -> float:
    """Return the PSNR-Y of one image."""
    return float(psnr(to_pixels(sr, "y", border), to_pixels(hr, "y", border)))


def _error(decibel: float) -> float:
    return 10 ** (-decibel / 10)


class Difference(NamedTuple):
    """A mean over images with its 95 % interval, less what it is compared with.

    value: The mean.
    reach: Half of the interval.
    better: Whether above 0 is better.
    """

    value: float
    reach: float
    better: bool

    @property
    def verdict(self) -> str:
        """Whether it is on the better side of 0."""
        if abs(self.value) <= self.reach or math.isnan(self.value):
            return OPEN
        return HOLDS if (self.value > 0) == self.better else FAILS


def mean(values: list[float]) -> tuple[float, float]:
    """Return the mean over images, and half of its 95 % interval."""
    count = len(values)
    deviations = float(stats.t.ppf(0.975, count - 1))
    return statistics.fmean(values), deviations * statistics.stdev(values) / math.sqrt(count)


def compare(row: Numbers, other: Numbers, metric: str) -> Difference:
    """Return how far a row is from another one, image by image.

    Args:
        row: The row that should be better.
        other: The other one, of the same images.
        metric: The metric.
    """
    pairs = zip(row[metric], other[metric], strict=True)
    return Difference(*mean([a - b for a, b in pairs]), metric in HIGHER)


def verdict(parts: Iterable[str]) -> str:
    """Return the verdict on a sentence: it holds if every part of it does."""
    found = list(parts)
    if FAILS in found:
        return FAILS
    return HOLDS if found and OPEN not in found else OPEN
