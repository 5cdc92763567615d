"""Settings of the DataModule, and their checks; each message names the key."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import get_args

from datamodules.policy import Small
from datamodules.scales import Scales
from datamodules.source import Augmentation


@dataclass(frozen=True)
class CropSettings:
    """How training crops are taken from images.

    Args:
        per_image: Crops of each training image per epoch.
        flips: Flip and transpose the crops at random.
        augment: A further change of the crops, on the CPU.
        small: What to do with training images smaller than crop_size: ``error``; ``pad``, mirror
            them at their lower and right border; or ``skip``, take other images instead.
        scales: Train at arbitrary scales instead of ``scale``, drawn for each batch.
        unreadable_limit: Stop the run when more than this share of the training samples of a
            process had an unreadable image (another one replaces it). Below 1,000 samples it is
            this share of 1,000: at 0.01, the eleventh stops the run; at 0, the first.

    Raises:
        ValueError: If a value is out of range.
    """

    per_image: int = 1
    flips: bool = True
    augment: Augmentation | None = None
    small: Small = "error"
    scales: Scales | None = None
    unreadable_limit: float = 0.01

    def __post_init__(self) -> None:
        check_least("crops.per_image", self.per_image, 1)
        if self.small not in get_args(Small):
            raise ValueError(
                f"data.init_args.crops.small is {self.small!r}; expected error, pad or skip"
            )
        if not 0 <= self.unreadable_limit <= 1:
            raise ValueError(
                f"data.init_args.crops.unreadable_limit is {self.unreadable_limit}; expected a "
                "share in [0, 1]"
            )


def checked_scale(scale: float, whose: str = "data.init_args.") -> float:
    """Return a scale as a float.

    Raises:
        ValueError: If it is not a number of at least 1.
    """
    number = isinstance(scale, int | float) and not isinstance(scale, bool)
    if not (number and math.isfinite(scale) and scale >= 1):
        name = f"{whose}scale" if whose.endswith(".") else f"{whose} scale"
        raise ValueError(f"{name} is {scale!r}; it must be a number of at least 1")
    return float(scale)


def check_least(name: str, value: int, least: int) -> None:
    """Check that a number is not below its minimum.

    Raises:
        ValueError: If it is below.
    """
    if value < least:
        raise ValueError(f"data.init_args.{name} is {value}; it must be at least {least}")


def check_streams(streams: int, batch_size: int) -> None:
    """Check that streams can share a batch evenly.

    Raises:
        ValueError: If ``streams`` does not divide ``batch_size``.
    """
    if batch_size % streams:
        raise ValueError(
            f"data.init_args.streams is {streams}, which does not divide "
            f"data.init_args.batch_size {batch_size}"
        )


def check_output_size(size: tuple[int, int] | None) -> None:
    """Check the size of an image.

    Args:
        size: (H, W) in pixels, or None.

    Raises:
        ValueError: If a side is below 1.
    """
    if size is not None and min(size) < 1:
        raise ValueError(
            f"data.init_args.size is {list(size)}; expected [height, width] in pixels, such as "
            "[768, 1024]"
        )


def check_crop(crop_size: int, scale: float) -> None:
    """Check that an integer scale divides the crop size.

    Raises:
        ValueError: If it does not; the message has both keys and the nearest valid sizes.
    """
    step = int(scale)
    if scale == step and crop_size % step:
        below = crop_size // step * step
        fits = f"{below} or {below + step}" if below else f"{step}"
        raise ValueError(
            f"data.init_args.crop_size is {crop_size}, not a multiple of data.init_args.scale "
            f"{step}; use {fits}"
        )
