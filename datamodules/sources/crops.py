"""Sources made of another source: Crops and OneLR."""

from __future__ import annotations

from typing import Any

import numpy as np
from PIL import Image

from datamodules.source import PerImage, Sample, Source, Wrapper, prepare_within, text_fields
from degradations.draws import Draws, seed_of
from files.images.deep import Pixels
from files.numbers import PositiveInt


class Crops(PerImage):
    """Squares from the images of another source, at fixed random positions.

    Each square is an image with a degradation of its own. So the mean over a few photographs does
    not depend on one draw for each; and all images have one size, so
    ``data.init_args.eval_batch_size`` may be more than 1.

    Args:
        source: Source of the images; HR only.
        size: Side of the squares in HR pixels.
        per_image: Squares per image; they may overlap.
    """

    def __init__(
        self,
        source: Source,
        size: PositiveInt = 192,
        per_image: PositiveInt = 4,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.source, self.side, self.per_image = source, size, per_image

    def read(self, index: int) -> Sample:
        """Return the square ``keys[index]``; its position depends on its name alone.

        Raises:
            UnreadableImage: If the image is broken.
            ValueError: If the image is smaller than the square, or has its own LR.
        """
        sample = self.image(index, self.side)
        number, square = divmod(index, self.per_image)
        draws = Draws(np.array([seed_of("crops", self.source.keys[number], square)]))
        height, width = sample["hr"].shape[:2]
        top = int(draws.integers(0, height - self.side + 1)[0])
        left = int(draws.integers(0, width - self.side + 1)[0])
        rows, columns = slice(top, top + self.side), slice(left, left + self.side)
        crop: Sample = {"hr": sample["hr"][rows, columns], **text_fields(sample)}
        if "meta" in sample:
            alpha = sample["meta"].get("alpha")
            if alpha is not None:
                alpha = alpha[rows, columns]
            crop["meta"] = {**sample["meta"], "alpha": alpha}
        return crop


class OneLR(Wrapper):
    """Images of another source as pairs whose LR has the same size at every scale.

    LR is the image downsampled to ``lr_side`` by Pillow's bicubic, and HR the image downsampled to
    ``lr_side`` times the scale, rounded. Faces are evaluated at many scales like this (IDM, Kim &
    Kim). An image has the same seed at all scales, so CasArbi draws the same noise for stages that
    two scales share.

    Args:
        source: Source of the images; HR only, 8 bits, at least as large as the HR.
        lr_side: Side of the LR of square images, or its height and width.

    """

    shares_seeds = True

    def __init__(
        self, source: Source, lr_side: PositiveInt | tuple[PositiveInt, PositiveInt], **kwargs: Any
    ) -> None:
        super().__init__(degradation=None, **kwargs)
        self.source = source
        self.lr_size = (lr_side, lr_side) if isinstance(lr_side, int) else lr_side
        self.hr_size = (0, 0)  # set by prepare, which knows the scale

    def prepare(self, scale: float) -> None:
        """Find the images. Args as ``Source.prepare``.

        Raises:
            ValueError: If the source has its own scale or degradation, or as its ``prepare``.
        """
        h, w = self.lr_size
        self.hr_size = round(h * scale), round(w * scale)
        prepare_within(self.source, self, scale)

    def read(self, index: int) -> Sample:
        """Return the pair ``keys[index]``.

        Raises:
            UnreadableImage: If the image is broken.
            ValueError: If it is smaller than the HR, or would be distorted.
        """
        sample = self.source.read(index)
        image = sample["hr"]
        problem = self._why_no_pair(image)
        if problem is not None:
            raise ValueError(f"{self.source.keys[index]} {problem}")
        hr, lr = downsample(image, self.hr_size), downsample(image, self.lr_size)
        return {"hr": hr, "lr": lr, **text_fields(sample)}

    def _why_no_pair(self, image: Pixels) -> str | None:
        """Return why the image cannot become a pair, or None."""
        (height, width), (h, w), (H, W) = image.shape[:2], self.lr_size, self.hr_size
        if height < H or width < W:
            return (
                f"is {width}x{height} pixels, smaller than the HR of {W}x{H} that OneLR makes "
                "from it: lower the scale or OneLR.lr_side"
            )
        if abs(height * w / width - h) >= 1 and abs(width * h / height - w) >= 1:
            return (
                f"is {width}x{height} pixels, and OneLR.lr_side {w}x{h} would distort it: give "
                "OneLR.lr_side as [height, width], or cut squares with datamodules.Crops"
            )
        return None


def downsample(image: Pixels, size: tuple[int, int]) -> Pixels:
    """Return (H, W, 3) uint8 downsampled to ``size`` (h, w) by Pillow's antialiased bicubic."""
    resized = Image.fromarray(image).resize(size[::-1], Image.Resampling.BICUBIC)
    return np.asarray(resized)
