"""Metrics of sets of images, applied to the frames of clips."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from torch import Tensor

from callbacks.kid_thumb import KIDThumb
from callbacks.swd import SWD
from callbacks.tensorboard import MetricProtocol

if TYPE_CHECKING:
    from datamodules.base import Batch


class FrameSWD(SWD):
    """SWD of all frames: the distance of their distribution of fine detail to that of real clips.

    Ignores motion. ``patches`` counts those of each frame: set it to about 64.

    Args:
        color: ``y`` for the luma of BT.601 in [16, 235], or ``rgb``.
        levels: Levels of the pyramid; an image's smaller side must be 7 pixels on the coarsest.
        patches: Patches of each image and level; fewer for sets of thousands of images, since
            all are kept until the end (0.3 MB an image with the defaults).
        directions: Random directions.
        every_n: In ``fit``, compute at the first validation and at every n-th after it.
        limit: Use only the first images of each dataset, this many; all of them by default.
        label: Name in logs and results, if one metric is used twice.
        control: Also measure the bicubic enlargement of the same LR: the row ``bicubic`` of the
            results.
        reference: Compare the outputs with these instead of their HR images: a folder of
            images, or a file made by ``python -m callbacks.reference``.
    """

    name = "frame_swd"
    target = "clip"

    def protocol(self) -> MetricProtocol:
        """Return ``SWD.protocol``, marked as one of frames."""
        return {**super().protocol(), "of": "all frames"}

    def features(self, images: Tensor, batch: Batch) -> Tensor:
        """Return (B, levels, F patches, D) patches of (B, F, 3, H, W) clips, or of images."""
        found = super().features(*_frames(images, batch))
        by_clip = found.view(len(images), -1, *found.shape[1:])  # (B, F, levels, patches, D)
        return by_clip.transpose(1, 2).flatten(2, 3)


class FrameKIDThumb(KIDThumb):
    """KID-thumb of all frames: compares the distributions of layout and colour with real clips.

    Ignores motion. Frames of a clip resemble each other, so it is noisier than for as many images.

    Args:
        side: Pixels of a thumbnail's side.
        subsets: Number of random subsets to average over.
        subset_size: Images in each, at most. If there are no more images than that, all are used,
            once.
        every_n: In ``fit``, compute at the first validation and at every n-th after it.
        limit: Use only the first images of each dataset, this many; all of them by default.
        label: Name in logs and results, if one metric is used twice.
        control: Also measure the bicubic enlargement of the same LR: the row ``bicubic`` of the
            results.
        reference: Compare the outputs with these instead of their HR images: a folder of
            images, or a file made by ``python -m callbacks.reference``.
    """

    name = "frame_kid_thumb"
    target = "clip"

    def protocol(self) -> MetricProtocol:
        """Return ``KIDThumb.protocol``, marked as one of frames."""
        return {**super().protocol(), "of": "all frames"}

    def features(self, images: Tensor, batch: Batch) -> Tensor:
        """Return (B, F, D) thumbnails of (B, F, 3, H, W) clips, or of images."""
        found = super().features(*_frames(images, batch))
        return found.view(len(images), -1, found.shape[-1])

    def distance(self, sr: Tensor, hr: Tensor) -> float:
        """Return the discrepancy of (N, F, D) and (M, F, D) thumbnails."""
        return super().distance(sr.flatten(0, 1), hr.flatten(0, 1))


def _frames(images: Tensor, batch: Batch) -> tuple[Tensor, Batch]:
    if images.ndim == 4:  # of a reference
        return images, batch
    keys = [f"{key}/{frame}" for key in batch["key"] for frame in range(images.shape[1])]
    return images.flatten(0, 1), cast("Batch", {**batch, "key": keys})
