"""Squares cut from another source: many small images to evaluate on, instead of a few large."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from datamodules.interleave import Mixture
from datamodules.names import Names
from datamodules.source import Sample, Source, prepare_within
from degradations.draws import Draws, seed_of


class Crops(Source):
    """Squares from the images of another source, at fixed random positions.

    Each square is an image with a degradation of its own. So the mean over a few photographs does
    not depend on one draw for each; and all images have one size, so
    ``data.init_args.eval_batch_size`` may be more than 1.

    Args:
        source: Source of the images; HR only.
        size: Side of the squares in HR pixels.
        per_picture: Squares per image; they may overlap.

    Raises:
        ValueError: If ``size`` or ``per_picture`` is below 1.
    """

    def __init__(
        self, source: Source, size: int = 192, per_picture: int = 4, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        for name, value in (("size", size), ("per_picture", per_picture)):
            if value < 1:
                raise ValueError(f"{name} of Crops is {value}; it must be at least 1")
        self.source, self.side, self.per_picture = source, size, per_picture
        self._keys = Names.of([])
        self._latest: tuple[int, Sample] | None = (
            None  # an image's crops are read one after another
        )

    def prepare(self, scale: float) -> None:
        """Find the images. Args as ``Source.prepare``.

        Raises:
            ValueError: If the source has its own scale or degradation, or as its ``prepare``.
        """
        prepare_within(self.source, self, scale)
        numbers = range(self.per_picture)
        self._keys = Names.of(f"{key}/{number}" for key in self.source.keys for number in numbers)

    @property
    def keys(self) -> Names:
        """The image's key and the square's number, such as ``rocket/0``."""
        return self._keys

    @property
    def groups(self) -> list[int]:
        """The source's groups, in squares."""
        return [self.per_picture * size for size in self.source.groups]

    @property
    def mixture(self) -> Mixture | None:
        """The source's mixture, in squares."""
        mixture = self.source.mixture
        return None if mixture is None else mixture.times(self.per_picture)

    def upcoming(self, groups: Sequence[int]) -> None:
        """Notify the source. Args as ``Source.upcoming``."""
        self.source.upcoming(groups)

    def read(self, index: int) -> Sample:
        """Return the square ``keys[index]``; its position depends on its name alone.

        Raises:
            UnreadableImage: If the image is broken.
            ValueError: If the image is smaller than the square, or has its own LR.
        """
        number, square = divmod(index, self.per_picture)
        key = self.source.keys[number]
        if self._latest is None or self._latest[0] != number:
            self._latest = number, self.source.read(number)
        sample = self._latest[1]
        if "lr" in sample:
            raise ValueError(f"{key} is a pair of HR and LR, which Crops does not cut")
        height, width = sample["hr"].shape[:2]
        if min(height, width) < self.side:
            raise ValueError(
                f"{key} is {width}x{height} pixels, smaller than Crops.size {self.side}: lower "
                "that, or leave such images out"
            )
        draws = Draws(np.array([seed_of("crops", key, square)]))
        top, left = (int(draws.integers(0, n - self.side + 1)[0]) for n in (height, width))
        hr = sample["hr"][top : top + self.side, left : left + self.side]
        cut: Sample = {"hr": hr}
        if "text" in sample:
            cut["text"] = sample["text"]
        if "text_features" in sample:
            cut["text_features"] = sample["text_features"]
        return cut
