"""Metrics of structure: LRConsistency, Repetition.

Repetition measures what Self-Cascade's figures show (Guo et al., ECCV 2024; arXiv 2402.10491):
small copies at a distance of the size that the network was trained for.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional

from callbacks.evaluation import MetricProtocol
from callbacks.metrics.base import ImageMetric, TooSmall
from callbacks.metrics.pixels import psnr, to_pixels
from callbacks.metrics.sets import SetMetric
from degradations.bicubic import resize
from files.batch import Batch

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
    """

    name = "lr_psnr"
    needs_hr = False
    needs_lr = True

    def __init__(self, color: Literal["y", "rgb"] = "y", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.color: Literal["y", "rgb"] = color

    def protocol(self) -> MetricProtocol:
        """Return implementation, colour, border, rounding, resize and range."""
        return {
            "implementation": "enlarger lr_psnr 1",
            "color": self.color,
            "border": 0,
            "round_8bit": True,
            "resize": "bicubic",
            "antialias": True,
            "data_range": 255,
        }

    def compute(self, sr: Tensor, hr: Tensor, batch: Batch) -> Tensor:
        """Return (B,) dB.

        Raises:
            ValueError: If the batch has no input.
        """
        if "lr" not in batch:
            raise ValueError(
                f"{self.name} of {', '.join(batch['key'])}: the batch has no `lr` to compare "
                "with; take LRConsistency out of trainer.callbacks, or give the dataset its inputs"
            )
        lr = batch["lr"]
        rounded = (sr * 255).round() / 255
        down = resize(rounded, lr.shape[-2:])
        return psnr(
            to_pixels(down, self.color, round_8bit=False),
            to_pixels(lr, self.color, round_8bit=False),
        )


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
        vertical = autocorrelation(luma, NEAR).mean(1)
        horizontal = autocorrelation(luma.mT, NEAR).mean(1)
        return torch.stack([vertical, horizontal], 1).mean(1, keepdim=True)

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
    correlations = []
    for shift in shifts:
        above = y[:, :-shift]
        below = y[:, shift:]
        norm = (above.square().sum((1, 2)) * below.square().sum((1, 2))).sqrt()
        correlations.append((above * below).sum((1, 2)) / norm.clamp(min=1e-6))
    return torch.stack(correlations, 1)
