"""One LR picture for many scales: LR and HR are both shrunk from a larger picture."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

from datamodules.interleave import Mixture
from datamodules.source import Pixels, Sample, Source, prepare_within


class OneLR(Source):
    """Pictures of another source as pairs whose LR has one size, whatever the scale.

    LR is the picture, shrunk to ``lr_side`` by Pillow's bicubic, and HR the same picture, shrunk to
    ``lr_side`` times the scale, rounded. So faces are evaluated at many scales (IDM, Kim & Kim),
    and ``SelfSSIM`` has outputs of one LR to compare. A picture's seed is the same at all scales:
    what CasArbi draws for the stages that two of them share is, too.

    Args:
        source: Where the pictures come from; HR only, 8 bits, no smaller than the HR that is made.
        lr_side: Side of the LR of square pictures, or its height and width.

    Raises:
        ValueError: ``lr_side`` is below 1.
    """

    shares_seeds = True

    def __init__(self, source: Source, lr_side: int | tuple[int, int], **kwargs: Any) -> None:
        super().__init__(degradation=None, **kwargs)
        size = (lr_side, lr_side) if isinstance(lr_side, int) else tuple(lr_side)
        if len(size) != 2 or min(size) < 1:
            raise ValueError(
                f"OneLR.lr_side is {lr_side}; expected a side of at least 1, or [height, width]"
            )
        self.source, self.lr_size = source, size
        self.hr_size = (0, 0)  # known when the scale is

    def prepare(self, scale: float) -> None:
        """Find the pictures. Args as ``Source.prepare``.

        Raises:
            ValueError: The source has a scale or a degradation of its own, or as its ``prepare``.
        """
        h, w = self.lr_size
        self.hr_size = round(h * scale), round(w * scale)
        prepare_within(self.source, self, scale)

    @property
    def keys(self) -> Sequence[str]:
        """Those of the source: the same at all scales."""
        return self.source.keys

    @property
    def groups(self) -> list[int]:
        """Those of the source."""
        return self.source.groups

    @property
    def mixture(self) -> Mixture | None:
        """That of the source."""
        return self.source.mixture

    def upcoming(self, groups: Sequence[int]) -> None:
        """Tell the source. Args as ``Source.upcoming``."""
        self.source.upcoming(groups)

    def path(self, index: int) -> str | None:
        """File of the picture ``keys[index]``, if it has one."""
        return self.source.path(index)

    def read(self, index: int) -> Sample:
        """The pair ``keys[index]``.

        Raises:
            UnreadableImage: The picture is broken.
            ValueError: It is a pair already, has 16 bits, is smaller than the HR, or would be
                distorted.
        """
        sample = self.source.read(index)
        picture = sample["hr"]
        wrong = self._wrong(sample)
        if wrong is not None:
            raise ValueError(f"{self.source.keys[index]} {wrong}")
        pair: Sample = {"hr": shrunk(picture, self.hr_size), "lr": shrunk(picture, self.lr_size)}
        if "text" in sample:
            pair["text"] = sample["text"]
        if "text_features" in sample:
            pair["text_features"] = sample["text_features"]
        return pair

    def _wrong(self, sample: Sample) -> str | None:
        """Why no pair can be made of it, if that is so."""
        if "lr" in sample:
            return "is a pair of HR and LR, of which OneLR cannot make another LR"
        picture = sample["hr"]
        if picture.dtype != np.uint8:
            return "has 16 bits, which OneLR does not take: convert it to 8"
        (height, width), (h, w), (H, W) = picture.shape[:2], self.lr_size, self.hr_size
        if height < H or width < W:
            return (
                f"is {width}x{height} pixels, smaller than the HR of {W}x{H} that OneLR is to make "
                "of it: lower the scale or OneLR.lr_side"
            )
        if abs(height * w / width - h) >= 1 and abs(width * h / height - w) >= 1:
            return (
                f"is {width}x{height} pixels, and OneLR.lr_side {w}x{h} would distort it: give "
                "OneLR.lr_side as [height, width], or cut squares with datamodules.crops.Crops"
            )
        return None


def shrunk(picture: Pixels, size: tuple[int, int]) -> Pixels:
    """An (h, w, 3) uint8 picture of an (H, W, 3) one, by Pillow's bicubic, which is antialiased."""
    resized = Image.fromarray(picture).resize(size[::-1], Image.Resampling.BICUBIC)
    return np.asarray(resized)
