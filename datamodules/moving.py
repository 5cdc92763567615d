"""Clips of a window that moves over photographs: video data without videos, for small trainings."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from datamodules.clips import ClipSource
from datamodules.cutting import SampleDraws
from datamodules.interleave import Mixture
from datamodules.source import Pixels, Sample, Source, prepare_within
from degradations.draws import seed_of

KEPT = 64  # decoded images; 30 MB at 480x320


class MovingCrops(ClipSource):
    """A window that pans over each image of another source at constant speed.

    The path is drawn from the sample's seed in training and from the key in evaluation: the speed
    along both axes, then the start, so that the window stays inside the image.

    Args:
        source: Source of the images; HR only.
        side: Side of a frame in pixels.
        reduce: Side in image pixels of the square whose mean is one pixel of a frame.
        speed: Largest movement from frame to frame along each axis, in pixels of a frame; smaller
            if the image has no room for it.
        per_picture: Clips per image.

    Raises:
        ValueError: If a number is out of range.
    """

    def __init__(
        self,
        source: Source,
        side: int,
        reduce: int = 1,
        speed: float = 1.0,
        per_picture: int = 1,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        least = {"side": side, "reduce": reduce, "per_picture": per_picture}
        for name, value in least.items():
            if value < 1:
                raise ValueError(f"MovingCrops.{name} is {value}; expected 1 or more")
        if speed <= 0:
            raise ValueError(f"MovingCrops.speed is {speed}; expected a number above 0")
        self.source, self.side, self.reduce = source, side, reduce
        self.speed, self.per_picture = speed, per_picture
        self._keys: list[str] = []
        self._decoded: OrderedDict[int, Sample] = OrderedDict()

    def __getstate__(self) -> dict[str, Any]:
        """Return the state without pixels: each worker decodes its own."""
        return {**self.__dict__, "_decoded": OrderedDict()}

    def prepare(self, scale: float) -> None:
        """Find the images. Args as ``Source.prepare``.

        Raises:
            ValueError: If the source has its own scale or degradation, or as its ``prepare``.
        """
        prepare_within(self.source, self, scale)
        self._keys = [f"{key}/{n}" for key in self.source.keys for n in range(self.per_picture)]
        self._decoded.clear()

    @property
    def keys(self) -> list[str]:
        """The image's key and the clip's number, such as ``rocket/0``."""
        return self._keys

    @property
    def groups(self) -> list[int]:
        """The source's groups, in clips."""
        return [self.per_picture * size for size in self.source.groups]

    @property
    def mixture(self) -> Mixture | None:
        """The source's mixture, in clips."""
        mixture = self.source.mixture
        return None if mixture is None else mixture.times(self.per_picture)

    def upcoming(self, groups: Sequence[int]) -> None:
        """Notify the source. Args as ``Source.upcoming``."""
        self.source.upcoming(groups)

    def clip(self, index: int, draws: SampleDraws | None) -> Sample:
        """As ``ClipSource.clip``.

        Raises:
            UnreadableImage: If the image is broken.
            ValueError: If it is smaller than the window, or a pair.
        """
        sample = self._picture(index // self.per_picture)
        own = draws or SampleDraws(seed_of("moving", self.keys[index]), "path")
        window = self.side * self.reduce
        height, width = sample["hr"].shape[:2]
        if min(height, width) < window:
            raise ValueError(
                f"{self.keys[index]} is {width}x{height} pixels, smaller than the window of "
                f"{window} that MovingCrops.side {self.side} and reduce {self.reduce} make: lower "
                "these, or leave such images out"
            )
        rows, columns = (self._starts(length - window, own) for length in (height, width))
        frames = [
            _averaged(sample["hr"][top : top + window, left : left + window], self.reduce)
            for top, left in zip(rows, columns, strict=True)
        ]
        found = cast(Sample, {"clip": np.stack(frames)})
        return {**found, "text": sample["text"]} if "text" in sample else found

    def _starts(self, room: int, draws: SampleDraws) -> list[int]:
        """Return the window's start along an axis in each frame, of ``room`` + 1 positions."""
        most = min(int(self.speed * self.reduce * (self.frames - 1)), room)
        length = draws.integer(-most, most + 1)
        start = draws.integer(max(0, -length), room - max(0, length) + 1)
        steps = self.frames - 1
        return [start + (2 * length * n + steps) // (2 * steps) for n in range(self.frames)]

    def _picture(self, number: int) -> Sample:
        if number not in self._decoded:
            sample = self.source.read(number)
            if "hr" not in sample or "lr" in sample:
                raise ValueError(
                    f"{self.source.keys[number]} is not a single image, which MovingCrops needs: "
                    "set its source to a folder or shards of images"
                )
            self._decoded[number] = sample
        self._decoded.move_to_end(number)
        while len(self._decoded) > KEPT:
            self._decoded.popitem(last=False)
        return self._decoded[number]


def _averaged(window: Pixels, factor: int) -> NDArray[np.uint8]:
    """Return the means of squares, rounded to 8 bits."""
    if window.dtype == np.uint8 and factor == 1:
        return cast("NDArray[np.uint8]", window)
    side = window.shape[0] // factor
    squares = window.reshape(side, factor, side, factor, 3).mean((1, 3), dtype=np.float32)
    return (squares * (255 / np.iinfo(window.dtype).max)).round().astype(np.uint8)
