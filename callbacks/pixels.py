"""The pixels that published PSNR and SSIM compare: 8 bit, Y or RGB, without the border."""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import TYPE_CHECKING, Literal

from torch import Tensor

from callbacks.base import ImageMetric, as_float64
from callbacks.tensorboard import MetricProtocol
from callbacks.too_small import TooSmall

if TYPE_CHECKING:
    from datamodules.base import Batch

Y_WEIGHTS = (65.481, 128.553, 24.966)  # BT.601 in studio range, as MATLAB's rgb2ycbcr has it


class PixelMetric(ImageMetric):
    """A metric on the literature's pixels. Subclasses implement ``score``.

    Args:
        color: ``y`` for the luma of BT.601 in [16, 235], as papers on super-resolution do, or
            ``rgb``.
        border: Pixels cut off at each side before comparing; ``scale`` cuts as many as the scale,
            rounded up, ``scale+6`` six more (as tables of DIV2K in RGB have it).
        round_8bit: Round images to 8 bit first, as numbers from saved PNG files are.
        every_n: In ``fit``, compute at the first validation and at every n-th after it.
        limit: Use only the first images of each dataset, this many; all of them by default.
        label: Name in logs and results, if one metric is used twice (say, on Y and on RGB).
        control: Also measure the bicubic enlargement of the same LR: the row ``bicubic`` of the
            results.

    Raises:
        ValueError: If a value is out of range.
    """

    def __init__(
        self,
        color: Literal["y", "rgb"] = "y",
        border: int | Literal["scale", "scale+6"] = "scale",
        round_8bit: bool = True,
        every_n: int = 1,
        limit: int | None = None,
        label: str | None = None,
        control: bool = False,
    ) -> None:
        super().__init__(every_n, limit, label, control)
        kind = type(self).__name__
        if color not in ("y", "rgb"):
            raise ValueError(f"`color` of {kind} is {color!r}; expected 'y' or 'rgb'")
        if border not in ("scale", "scale+6") and (isinstance(border, str) or border < 0):
            raise ValueError(
                f"`border` of {kind} is {border}; expected 'scale', 'scale+6', or 0 or more"
            )
        self.color, self.border, self.round_8bit = color, border, round_8bit

    @abstractmethod
    def score(self, sr: Tensor, hr: Tensor) -> Tensor:
        """Return (B,) values of two images (B, C, H, W) float64 in [0, 255]."""

    def protocol(self) -> MetricProtocol:
        """Return implementation, colour, border, rounding and range."""
        return {
            "implementation": f"enlarger {type(self).name} 1",
            "color": self.color,
            "border": self.border,
            "round_8bit": self.round_8bit,
            "data_range": 255,
        }

    def margin(self) -> int:
        """Return the pixels to cut off at each side for the current dataset."""
        if isinstance(self.border, int):
            return self.border
        return math.ceil(self.scale) + (6 if self.border == "scale+6" else 0)

    def compute(self, sr: Tensor, hr: Tensor, batch: Batch) -> Tensor:
        """Return the score of each image.

        Raises:
            TooSmall: If nothing is left of an image without its border.
        """
        border = self.margin()
        if min(sr.shape[-2:]) <= 2 * border:
            raise TooSmall(sr, f"one pixel without the border of {border}")
        return self.score(
            to_pixels(sr, self.color, border, self.round_8bit),
            to_pixels(hr, self.color, border, self.round_8bit),
        )


def to_pixels(
    image: Tensor, color: Literal["y", "rgb"], border: int = 0, round_8bit: bool = True
) -> Tensor:
    """Return pixels as papers compare them.

    Args:
        image: (B, 3, H, W) in [0, 1].
        color: ``y`` or ``rgb``.
        border: Pixels to cut off at each side.
        round_8bit: Whether to round to whole levels, before the conversion to Y.

    Returns:
        (B, 1 or 3, H - 2 border, W - 2 border) float64 in [0, 255].
    """
    height, width = image.shape[-2:]
    pixels = as_float64(image[..., border : height - border, border : width - border]) * 255
    if round_8bit:
        pixels = pixels.round()
    if color == "rgb":
        return pixels
    red, green, blue = Y_WEIGHTS
    luma = pixels[:, :1] * red + pixels[:, 1:2] * green + pixels[:, 2:] * blue
    return luma / 255 + 16
