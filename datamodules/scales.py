"""Training at arbitrary scales: the sides of each batch, and the resizing of its crops."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from datamodules.batches import to_floats
from degradations.base import quantize_8bit
from degradations.bicubic import resize
from degradations.draws import Draws, seed_of
from files.numbers import PositiveFloat, PositiveInt, UnitInterval

FIXED_SIZE = {"lr": "LR", "latent": "latent", "clip": "frames"}  # fields with sides of their own


class Sides(NamedTuple):
    """Sides of one batch, in pixels.

    lr: Side of the LR images.
    hr: Side of the HR images; larger.
    """

    lr: int
    hr: int


@dataclass(frozen=True)
class Scales:
    """A random scale for each training batch, for methods that enlarge by any factor.

    The images of a batch share their sides, which depend only on the run's seed, the epoch and the
    number of the global batch: they are the same on any number of processes, and after a resume.

    Args:
        fixed: The largest factor, which a batch has with ``probability``.
        probability: Probability of the factor ``fixed``; else the factor is uniform between
            ``lowest`` and ``fixed``.
        lowest: The smallest factor, at least 1.
        lr_sides: Sides of the LR in pixels; each batch draws one. The HR side is the LR side times
            the factor, rounded, and at least one pixel more.
        hr_side: Side of all HR in pixels, instead of lr_sides. The LR side is the HR side divided
            by the factor, rounded, and at least one pixel less.
        whole: Resize the whole crop to the HR side by bicubic, as for faces, instead of cutting it.

    Raises:
        ValueError: If ``lowest`` is below 1 or above ``fixed``.

    Source: CasArbi (arXiv 2506.07813), its mixture of a fixed factor and a smaller arbitrary range.
    """

    fixed: PositiveFloat = 2.0
    probability: UnitInterval = 0.8
    lowest: PositiveFloat = 1.0
    lr_sides: list[PositiveInt] = field(default_factory=lambda: [48])
    hr_side: PositiveInt | None = None
    whole: bool = False

    def __post_init__(self) -> None:
        if not 1 <= self.lowest <= self.fixed < math.inf:  # NaN fails as well
            raise ValueError(
                f"data.init_args.crops.scales: lowest is {self.lowest:g} and fixed "
                f"{self.fixed:g}; expected 1 <= lowest <= fixed"
            )

    @property
    def largest_hr_side(self) -> int:
        """Largest HR side of a batch."""
        if self.hr_side is not None:
            return self.hr_side
        return max(max(round(side * self.fixed), side + 1) for side in self.lr_sides)

    def check_crop(self, crop_size: int) -> None:
        """Check that crops are large enough for the largest HR side.

        Raises:
            ValueError: If they are not; the message has the smallest valid size.
        """
        if crop_size < self.largest_hr_side:
            raise ValueError(
                f"data.init_args.crop_size is {crop_size}, less than the largest HR side that "
                f"data.init_args.crops.scales draws: make it at least {self.largest_hr_side}"
            )

    def sides(self, seed: int, epoch: int, batch: int) -> Sides:
        """Return the sides of one batch; the factor is their ratio.

        Args:
            seed: The run's seed.
            epoch: Number of the epoch, from 0.
            batch: Number of the global batch in it, from 0.
        """
        draws = Draws(np.array([seed_of(seed, "scale", epoch, batch)]))
        arbitrary = float(draws.uniform(self.lowest, self.fixed)[0])
        factor = self.fixed if draws.bernoulli(self.probability)[0] else arbitrary
        if self.hr_side is not None:
            return Sides(max(1, min(round(self.hr_side / factor), self.hr_side - 1)), self.hr_side)
        lr = int(draws.choice(self.lr_sides)[0])
        return Sides(lr, max(round(lr * factor), lr + 1))

    def convert_and_resize(self, batch: dict[str, Any], side: int) -> None:
        """Convert the HR of a batch to float32 in [0, 1] and to the given side, in place.

        A cut takes the upper left corner, as the crop's position is random already.

        Args:
            batch: ``hr`` (B, 3, crop_size, crop_size), as it arrives on the device.
            side: The HR side in pixels.

        Raises:
            ValueError: If the batch has its own LR, or latents.
        """
        given = [what for name, what in FIXED_SIZE.items() if name in batch]
        if given:
            raise ValueError(
                f"{batch['key'][0]} comes with its own {given[0]}, which has one size, but "
                "data.init_args.crops.scales draws others: train on HR alone, or unset scales"
            )
        if not self.whole:
            batch["hr"] = batch["hr"][..., :side, :side]
        to_floats(batch)
        if self.whole:
            # Rounded to 8 bits, as the files are on which such models are evaluated.
            batch["hr"] = quantize_8bit(resize(batch["hr"], (side, side)))
