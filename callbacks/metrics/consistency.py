"""LRConsistency: whether an output agrees with its input."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from torch import Tensor

from callbacks.evaluation import MetricProtocol
from callbacks.metrics.base import ImageMetric, TooSmall
from callbacks.metrics.pixels import psnr, to_pixels
from degradations.bicubic import resize
from files.numbers import NonNegativeInt

if TYPE_CHECKING:
    from files.batch import Batch


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
    needs_hr, needs_lr = False, True

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
