"""pFID and pKID: FID and KID of patches at full resolution, which see detail that resizing hides.

Source: Chai et al., "Any-resolution training for high-resolution image synthesis" (ECCV 2022),
section 4.1; crops as Self-Cascade (Guo et al., ECCV 2024) takes them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from callbacks.fid import frechet_distance
from callbacks.inception import SIDE, InceptionMetric, levels
from callbacks.kid import SEED, kernel_distance
from callbacks.tensorboard import MetricProtocol
from callbacks.too_small import TooSmall
from degradations.draws import seed_of

if TYPE_CHECKING:
    from datamodules.base import Batch


class PatchMetric(InceptionMetric):
    """A distance of Inception features of random crops, which are not resized.

    Args:
        crops: Crops of 299x299 pixels from each image.
        strict_weights: Stop the run if the weights are missing; otherwise the metric is off.
        every_n: In ``fit``, compute at the first validation and at every n-th after it.
        limit: Use only the first images of each dataset, this many; all of them by default.
        label: Name in logs and results, if one metric is used twice.
        control: Also measure the bicubic enlargement of the same LR: the row ``bicubic`` of the
            results.
        reference: Compare the outputs with these instead of their HR images: a folder of
            images, or a file made by ``python -m callbacks.reference``.

    Raises:
        ValueError: If ``crops`` is below 1.
    """

    def __init__(
        self,
        crops: int = 3,
        strict_weights: bool = False,
        every_n: int = 1,
        limit: int | None = None,
        label: str | None = None,
        control: bool = False,
        reference: str | None = None,
    ) -> None:
        super().__init__(
            strict_weights=strict_weights,
            every_n=every_n,
            limit=limit,
            label=label,
            control=control,
            reference=reference,
        )
        if crops < 1:
            raise ValueError(f"`crops` of {type(self).__name__} is {crops}; it must be at least 1")
        self.crops = crops

    def features_protocol(self) -> MetricProtocol:
        """Return crops, rounding, network and weights; there is no preset without resizing."""
        whole = super().features_protocol()
        resizing = ("preset", "resize", "antialias")
        crops = f"{self.crops} of {SIDE}x{SIDE} from each picture, not resized, seeded by its name"
        return {"crops": crops} | {k: v for k, v in whole.items() if k not in resizing}

    def features(self, images: Tensor, batch: Batch) -> Tensor:
        """Return (B, crops, 2048) features.

        Raises:
            TooSmall: If an image is smaller than a crop.
        """
        if min(images.shape[-2:]) < SIDE:
            raise TooSmall(images, f"a crop's {SIDE}x{SIDE}")
        keys = tuple(batch["key"])
        what = ("patches", self.crops, keys, self.sha256)
        return self.once(images, what, lambda: self._embed_crops(images, keys))

    def _embed_crops(self, images: Tensor, keys: tuple[str, ...]) -> Tensor:
        limit = np.array(images.shape[-2:]) - SIDE + 1
        crops = []
        for image, key in zip(levels(images), keys, strict=True):
            draws = np.random.default_rng(seed_of("patch", key))
            for top, left in draws.integers(limit, size=(self.crops, 2)):
                crops.append(image[:, top : top + SIDE, left : left + SIDE])
        return self.embed(torch.stack(crops)).view(len(images), self.crops, -1)


class PatchFID(PatchMetric):
    """Frechet Inception distance of seeded 299x299 crops, which are not resized; lower is better.

    The pFID of Self-Cascade's tables, which takes 3 crops of each image. An output and its HR are
    cropped at the same places.

    Args:
        crops: Crops of 299x299 pixels from each image.
        strict_weights: Stop the run if the weights are missing; otherwise the metric is off.
        every_n: In ``fit``, compute at the first validation and at every n-th after it.
        limit: Use only the first images of each dataset, this many; all of them by default.
        label: Name in logs and results, if one metric is used twice.
        control: Also measure the bicubic enlargement of the same LR: the row ``bicubic`` of the
            results.
        reference: Compare the outputs with these instead of their HR images: a folder of
            images, or a file made by ``python -m callbacks.reference``.
    """

    name = "pfid"
    enough = 5000
    remark = "biased upward"

    def distance(self, sr: Tensor, hr: Tensor) -> float:
        """Return the FID of all crops, (N, crops, 2048) and (M, crops, 2048)."""
        return frechet_distance(sr.flatten(0, 1), hr.flatten(0, 1))


class PatchKID(PatchMetric):
    """Kernel Inception distance of seeded 299x299 crops, which are not resized; lower is better.

    The pKID of Self-Cascade's tables: the mean over 100 subsets of up to 1000 crops.

    Args:
        crops: Crops of 299x299 pixels from each image.
        strict_weights: Stop the run if the weights are missing; otherwise the metric is off.
        every_n: In ``fit``, compute at the first validation and at every n-th after it.
        limit: Use only the first images of each dataset, this many; all of them by default.
        label: Name in logs and results, if one metric is used twice.
        control: Also measure the bicubic enlargement of the same LR: the row ``bicubic`` of the
            results.
        reference: Compare the outputs with these instead of their HR images: a folder of
            images, or a file made by ``python -m callbacks.reference``.
    """

    name = "pkid"
    enough = 1000
    remark = "noisy"

    def protocol(self) -> MetricProtocol:
        """Return that of the crops, the kernel and the subsets."""
        return {
            **super().protocol(),
            "kernel": "(x.y/2048 + 1)^3, unbiased",
            "subsets": f"100 of up to 1000 crops, seed {SEED}",
        }

    def distance(self, sr: Tensor, hr: Tensor) -> float:
        """Return the KID of all crops, (N, crops, 2048) and (M, crops, 2048)."""
        return kernel_distance(sr.flatten(0, 1), hr.flatten(0, 1))[0]
