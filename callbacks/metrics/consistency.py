"""Metrics of structure: LRConsistency, SelfSSIM, Repetition.

SelfSSIM: after its use in Ntavelis et al., "Arbitrary-scale image synthesis" (CVPR 2022); the
details are ours. That paper's code computes MS-SSIM of RGB after nearest-neighbour resizing and
truncation, so published numbers are not comparable.

Repetition measures what Self-Cascade's figures show (Guo et al., ECCV 2024; arXiv 2402.10491):
small copies at a distance of the size that the network was trained for.
"""

from __future__ import annotations

import logging
import math
from collections import Counter
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor
from torch.nn import functional

from callbacks.evaluation import first_of
from callbacks.metrics.base import ImageMetric, Measured, Metric, Record, TooSmall, warn_of_small
from callbacks.metrics.pixels import psnr, ssim, to_pixels
from callbacks.metrics.sets import SetMetric
from callbacks.tensorboard import MetricProtocol
from degradations.bicubic import resize
from files.numbers import NonNegativeInt, PositiveInt

if TYPE_CHECKING:
    from files.batch import Batch


log = logging.getLogger(__name__)
SIDE = 16  # pixels of the base's side after shrinking: fine detail does not matter
NEAR = range(SIDE - 2, SIDE + 3)  # shifts that are compared
LEAST = 1.5  # smallest side of an image, in sides of the base


class LRConsistency(ImageMetric):
    """PSNR in dB between the input and the output downscaled to its size; higher is better.

    Downscaled by antialiased bicubic, so it is meaningful for inputs that were made in this way; a
    model that also removes blur, noise or JPEG must depart from its input. Bicubic enlargement of
    Set5 has 42.4 (x2) and 38.8 (x4), the HR images themselves 61.5 and 59.6, limited by the inputs'
    rounding to 8 bits. ``color: rgb`` is the LR-PSNR of NTIRE's challenges on the space of
    solutions, about 1.5 dB lower.

    Args:
        color: ``y`` for the luma of BT.601 in [16, 235], or ``rgb``.
        border: Pixels of the input cut off at each side before comparing.
        round_8bit: Round the output to 8 bit first, as a saved PNG file is.
    """

    name = "lr_psnr"
    needs_hr = False

    def __init__(
        self,
        color: Literal["y", "rgb"] = "y",
        border: NonNegativeInt = 0,
        round_8bit: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.color: Literal["y", "rgb"] = color
        self.border, self.round_8bit = border, round_8bit

    def protocol(self) -> MetricProtocol:
        """Return implementation, colour, border, rounding, resize and range."""
        return {
            "implementation": "enlarger lr_psnr 1",
            "color": self.color,
            "border": self.border,
            "round_8bit": self.round_8bit,
            "resize": "bicubic",
            "antialias": True,
            "data_range": 255,
        }

    def compute(self, sr: Tensor, hr: Tensor, batch: Batch) -> Tensor:
        """Return (B,) dB.

        Raises:
            TooSmall: If nothing is left of the input without its border.
            ValueError: If the batch has no input.
        """
        if "lr" not in batch:
            raise ValueError(
                f"{self.name} of {', '.join(batch['key'])}: the batch has no `lr` to compare "
                "with; take LRConsistency out of trainer.callbacks, or give the dataset its inputs"
            )
        lr = batch["lr"]
        if min(lr.shape[-2:]) <= 2 * self.border:
            raise TooSmall(lr, f"one pixel of the input without the border of {self.border}")
        output = (sr * 255).round() / 255 if self.round_8bit else sr
        down = resize(output, lr.shape[-2:])
        return psnr(*(to_pixels(x, self.color, self.border, False) for x in (down, lr)))


class SelfSSIM(Metric):
    """SSIM between the outputs at two scales, the first resized to the second's size.

    For datasets of the same images (with equal names in each dataset) at different scales, as
    several sources of one evaluation: ``self_ssim_from_x2`` of the x4 dataset compares the outputs
    at x2, enlarged by bicubic, with those at x4. Not symmetric; higher is better. Outputs of all
    datasets are kept in memory until the end, 3 bytes per pixel: see ``limit``.

    Args:
        color: ``y`` for the luma of BT.601 in [16, 235], or ``rgb``.
        every_n: In ``fit``, compute at the first validation and at every n-th after it.
        limit: Use only the first images of each dataset, this many; all of them by default.
        label: Name in logs and results.
    """

    name = "self_ssim"
    needs_hr = False

    def __init__(
        self,
        color: Literal["y", "rgb"] = "y",
        every_n: PositiveInt = 1,
        limit: PositiveInt | None = None,
        label: str | None = None,
    ) -> None:
        super().__init__(every_n, limit, label)
        self.color: Literal["y", "rgb"] = color
        self._seen: list[tuple[Any, Measured]] = []  # datasets of this evaluation so far

    def protocol(self) -> MetricProtocol:
        """Return implementation, colour, border, rounding, resize, range and window."""
        return {
            "implementation": "enlarger self_ssim 1",
            "color": self.color,
            "border": 0,
            "round_8bit": True,
            "resize": "bicubic",
            "antialias": True,
            "data_range": 255,
            "window": "gaussian 11x11 1.5 valid",
        }

    def measure(self, sr: Tensor, hr: Tensor, batch: Batch) -> Tensor:
        """Return (B, 3, H + 1, W) uint8 outputs; the last row is 1 if all pixels are finite."""
        finite = sr.flatten(1).isfinite().all(1).view(-1, 1, 1, 1).expand(-1, 3, 1, sr.shape[-1])
        pixels = (sr.nan_to_num().clamp(0, 1) * 255).round()
        return torch.cat([pixels, finite.to(pixels)], dim=2).to(torch.uint8)

    def summarise(self, dataset: Any, images: Measured) -> list[Record]:
        """Return the numbers of this dataset with each earlier one, both ways."""
        named = {key.removeprefix(f"{dataset.name}/"): x for key, x in images.items()}
        records = []
        for other, others in self._seen:
            shared = sorted(named.keys() & others.keys())
            if not shared or other.scale == dataset.scale:
                continue
            for a, of_a, b, of_b in (
                (other, others, dataset, named),
                (dataset, named, other, others),
            ):
                metric = f"{self.name}_from_x{a.scale:g}"
                values = self._similarities(metric, b, {n: (of_a[n], of_b[n]) for n in shared})
                if not values:
                    continue
                if bad := [name for name, value in values.items() if not math.isfinite(value)]:
                    message = "%s of %s: %d of %d images have pixels that are not finite: %s"
                    log.warning(message, metric, b.name, len(bad), len(values), first_of(bad))
                mean = sum(values.values()) / len(values)
                records.append(self.record(b, mean, len(values), metric))
        self._seen.append((dataset, named))
        return records

    def _similarities(
        self, metric: str, dataset: Any, pairs: dict[str, tuple[Any, Any]]
    ) -> dict[str, float]:
        values, small = {}, {}
        for name, (a, b) in pairs.items():
            try:
                values[name] = self._similarity(a, b)
            except TooSmall as error:
                small[f"{dataset.name}/{name}"] = error.window
        warn_of_small(metric, dataset.name, small, len(values))
        return values

    def _similarity(self, a: Any, b: Any) -> float:
        if not (a[:, -1].all() and b[:, -1].all()):
            return math.nan
        a, b = a[:, :-1], b[:, :-1]
        first, second = (torch.from_numpy(x)[None].float() / 255 for x in (a, b))
        first = resize(first, second.shape[-2:])
        return float(ssim(to_pixels(first, self.color), to_pixels(second, self.color)))

    def _summaries(self, small: list[list[Measured]]) -> tuple[list[Record], ...]:
        found = super()._summaries(small)
        self._seen = []
        times = Counter((r["dataset"], r["metric"]) for r in found[0])
        for (dataset, metric), count in times.items():
            if count > 1:  # it is unknown which of them has the same images
                log.warning(
                    "no %s of %s: %d datasets of that scale have images of the same names; take "
                    "the others out, or rename their images",
                    *(metric, dataset, count),
                )
        kept = [r for r in found[0] if times[r["dataset"], r["metric"]] == 1]
        if not found[0]:
            log.warning(
                "no %s: it needs datasets of the same images at two scales or more", self.name
            )
        return kept, *found[1:]


class Repetition(SetMetric):
    """Autocorrelation at shifts near the base's side, above that of the references.

    With x the luma of an image, averaged over areas so that the base's side is 16 pixels, and y
    equal to x minus the mean of each column, the vertical part of an image's number is

        mean over s = 14 ... 18 of  sum_p y(p) y(p + s) / sqrt(sum_p y(p)^2 sum_p y(p + s)^2)

    where p runs over all pixels for which p + s lies in the image, s pixels below. The horizontal
    part is that of the transposed image; the number is the mean of the two, in [-1, 1]. The logged
    value is its mean over the outputs minus its mean over the references. 0 is as little repetition
    as in the references; an image of four equal quarters has about 0.9 with CIFAR-10's automobiles
    as references.

    Without the means of lines, a level ground or sky, as in real images, does not count as
    repetition; blur, which makes neighbours alike, does not raise the number (it lowers it by 0.06
    on that data, where quarters of four other automobiles have +0.13). It is no published number.

    Args:
        base: Side of the images that the generator was trained for, in pixels; the shorter one if
            they are not square.

    Raises:
        ValueError: If ``base`` is below 16.
    """

    name = "repetition"
    minimum = 1
    enough = 100
    remark = "noisy"

    def __init__(self, base: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if base < SIDE:
            raise ValueError(f"`base` of Repetition is {base}; it must be at least {SIDE} pixels")
        self.base = base

    def protocol(self) -> MetricProtocol:
        """Return implementation, colour, rounding, the base's side and the shifts."""
        return {
            "implementation": "enlarger repetition 1",
            "color": "y",
            "round_8bit": True,
            "base": self.base,
            "resize": f"area, {self.base} pixels to {SIDE}",
            "shifts": f"{NEAR[0]} to {NEAR[-1]}, without the means of lines",
        }

    def features(self, images: Tensor, batch: Batch) -> Tensor:
        """Return (B, 1) numbers of the images.

        Raises:
            TooSmall: If an image has less than one and a half of the base's sides.
        """
        height, width = images.shape[-2:]
        if min(height, width) < LEAST * self.base:
            raise TooSmall(images, f"{LEAST:g} times the `base` of {self.base} a side")
        size = (round(height * SIDE / self.base), round(width * SIDE / self.base))
        luma = to_pixels(images.clamp(0, 1), "y")
        luma = functional.interpolate(luma, size, mode="area")[:, 0]
        parts = [autocorrelation(x, NEAR).mean(1) for x in (luma, luma.mT)]
        return torch.stack(parts, 1).mean(1, keepdim=True)

    def distance(self, sr: Tensor, hr: Tensor) -> float:
        """Return the mean of (N, 1) numbers minus that of (M, 1)."""
        return float(sr.mean() - hr.mean())


def autocorrelation(x: Tensor, shifts: range) -> Tensor:
    """Return the vertical autocorrelation of columns minus their means.

    Args:
        x: (B, H, W).
        shifts: In pixels, below H.

    Returns:
        (B, shifts) in [-1, 1]; 0 if a part is flat.
    """
    y = x - x.mean(1, keepdim=True)
    found = []
    for shift in shifts:
        above, below = y[:, :-shift], y[:, shift:]
        norm = (above.square().sum((1, 2)) * below.square().sum((1, 2))).sqrt()
        found.append((above * below).sum((1, 2)) / norm.clamp(min=1e-6))
    return torch.stack(found, 1)
