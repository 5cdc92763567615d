"""Transforms of albumentations on training crops, seeded by the sample alone."""

from __future__ import annotations

import os
import random
from collections import Counter

import numpy as np
from numpy.typing import NDArray

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # else its import checks for updates online

from albumentations import BaseCompose, BasicTransform

from datamodules.source import Augmentation
from degradations.draws import seed_of


class Albumentations(Augmentation):
    """Transforms of albumentations, one after the other, each with its own probability ``p``.

    They change the HR crop before LR is made from it, so the model learns to restore their output.
    They need no ``Compose`` around them.

    Args:
        transforms: Any transforms that keep the size, by class path, for example
            ``albumentations.HueSaturationValue``, or groups such as ``albumentations.OneOf``.
    """

    def __init__(self, transforms: list[BasicTransform | BaseCompose]) -> None:
        self.transforms = transforms
        # A stream belongs to a transform's name, so adding another transform does not change it.
        seen: Counter[str] = Counter()
        self._streams = []
        for transform in transforms:
            name = type(transform).__name__
            self._streams.append(seed_of("albumentations", name, seen[name]))
            seen[name] += 1

    def __call__(self, hr: NDArray[np.uint8], seed: int) -> NDArray[np.uint8]:
        """Transform one image.

        Args:
            hr: (H, W, 3) uint8; not modified.
            seed: The sample's seed, not negative.

        Raises:
            ValueError: If ``hr`` is not 8-bit.
        """
        if hr.dtype != np.uint8:
            raise ValueError(
                f"data.init_args.crops.augment requires 8-bit images, and the training set has "
                f"one of {hr.dtype}: convert it, or leave augment out"
            )
        image = hr.copy()  # some transforms work in place
        for transform, stream in zip(self.transforms, self._streams, strict=True):
            key = np.array([seed, stream], np.uint64)
            generator = np.random.Generator(np.random.Philox(key=key))
            transform.set_random_state(generator, random.Random(stream << 64 | seed))
            image = transform(image=image)["image"]
        return image
