"""The lattice artefact of a decoder: energy at its period over that of nearby frequencies."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from callbacks.base import ImageMetric
from callbacks.pixels import to_pixels
from callbacks.tensorboard import MetricProtocol
from callbacks.too_small import TooSmall

if TYPE_CHECKING:
    from datamodules.base import Batch

BESIDE = (-4, -3, -2, 2, 3, 4)  # bins; the window's own peak is one wide at each side
PERIODS = 8  # an image has at least this many per side


class Lattice(ImageMetric):
    """Energy at multiples of 1/period relative to nearby frequencies; lower is better.

    Energy of luma where both frequencies are multiples, over that two to four bins away, averaged:
    about 1 means no lattice. White noise has 1.2, Kodak's photographs 0.8 to 1.7, and 5 (median;
    1.5 to 61) with one 8-bit level added on every eighth row and column. Decoders of latents with a
    factor of 8 may leave a lattice of 8 pixels, which a sliced Wasserstein distance of patches
    counts as texture. Images need 8 periods a side. Not a quality metric: noise hides a lattice.

    Args:
        period: Period of the lattice in pixels: the factor of the decoder.
        every_n: In ``fit``, compute at the first validation and at every n-th after it.
        limit: Use only the first images of each dataset, this many; all of them by default.
        label: Name in logs and results, if one metric is used twice (say, for two periods).
        control: Also measure the bicubic enlargement of the same LR: the row ``bicubic`` of the
            results.

    Raises:
        ValueError: If ``period`` is below 2.
    """

    name = "lattice"
    higher_is_better = False
    needs_hr = False

    def __init__(
        self,
        period: int = 8,
        every_n: int = 1,
        limit: int | None = None,
        label: str | None = None,
        control: bool = False,
    ) -> None:
        super().__init__(every_n, limit, label, control)
        if period < 2:
            raise ValueError(f"`period` of Lattice is {period}; expected 2 pixels or more")
        self.period = period

    def protocol(self) -> MetricProtocol:
        """Return implementation, colour, rounding, range, period and window."""
        return {
            "implementation": "enlarger lattice 1",
            "color": "y",
            "border": 0,
            "round_8bit": True,
            "data_range": 255,
            "period": self.period,
            "window": "hann",
        }

    def compute(self, sr: Tensor, hr: Tensor, batch: Batch) -> Tensor:
        """Return (B,) ratios of energies.

        Raises:
            TooSmall: If an image has fewer than 8 periods.
        """
        least = PERIODS * self.period
        if min(sr.shape[-2:]) < least:
            raise TooSmall(sr, f"{least}x{least}, {PERIODS} times the `period` of {self.period}")
        return lattice(to_pixels(sr, "y")[:, 0], self.period)


def lattice(luma: Tensor, period: int) -> Tensor:
    """Return the energy at multiples of 1/period over that nearby, averaged over the multiples.

    Args:
        luma: (B, H, W) float64 in [0, 255].
        period: Pixels.

    Returns:
        (B,) ratios.
    """
    # Sides that are multiples of the period have its frequencies as bins of the transform.
    rows, columns = (side // period for side in luma.shape[-2:])
    luma = luma[:, : rows * period, : columns * period]
    down, across = (
        torch.hann_window(side, dtype=luma.dtype, device=luma.device) for side in luma.shape[-2:]
    )
    window = down[:, None] * across
    luma = (luma - luma.mean((1, 2), keepdim=True)) * window
    # Rounding to 8 bits adds this energy everywhere, also to a flat image.
    energy = torch.fft.fft2(luma).abs().square() + window.square().sum() / 12
    beside_rows, beside_columns = (
        torch.stack([energy.roll(step, dim) for step in BESIDE]).mean(0) for dim in (1, 2)
    )
    beside = (beside_rows + beside_columns) / 2
    # Photographs are strongest on the two axes, so there only what lies on them is compared.
    beside[:, 0], beside[:, :, 0] = beside_columns[:, 0], beside_rows[:, :, 0]
    found = (energy / beside)[:, ::rows, ::columns].flatten(1)
    return found[:, 1:].mean(1)  # without the mean of the image
