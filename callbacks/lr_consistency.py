"""Consistency with the input: the output, downscaled again, should equal the input."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from torch import Tensor

from callbacks.base import ImageMetric
from callbacks.pixels import to_pixels
from callbacks.psnr import psnr
from callbacks.tensorboard import MetricProtocol
from callbacks.too_small import TooSmall
from degradations.bicubic import resize

if TYPE_CHECKING:
    from datamodules.base import Batch


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
        every_n: In ``fit``, compute at the first validation and at every n-th after it.
        limit: Use only the first images of each dataset, this many; all of them by default.
        label: Name in logs and results.
        control: Also measure the bicubic enlargement of the same LR: the row ``bicubic`` of the
            results.

    Raises:
        ValueError: If a value is out of range.
    """

    name = "lr_psnr"
    needs_hr = False

    def __init__(
        self,
        color: Literal["y", "rgb"] = "y",
        border: int = 0,
        round_8bit: bool = True,
        every_n: int = 1,
        limit: int | None = None,
        label: str | None = None,
        control: bool = False,
    ) -> None:
        super().__init__(every_n, limit, label, control)
        if color not in ("y", "rgb"):
            raise ValueError(f"`color` of LRConsistency is {color!r}; expected 'y' or 'rgb'")
        if border < 0:
            raise ValueError(f"`border` of LRConsistency is {border}; expected 0 or more")
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
