"""Memorised: whether generated images lie closer to the training images than other images do."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor
from torch.nn import functional

from callbacks.processes import on_first
from callbacks.reference import find_reference
from callbacks.reference_files import Reference
from callbacks.sets import SetMetric
from callbacks.tensorboard import MetricProtocol
from callbacks.too_small import TooSmall

if TYPE_CHECKING:
    from datamodules.base import Batch


class Memorised(SetMetric):
    """Nearest-neighbour ratio: 1 means no memorisation, 0 copies.

    The mean distance of the outputs to the nearest training image, over that of the references,
    real images that were not trained on. Images are compared as RGB thumbnails of 16x16 pixels by
    area; the distance is the root mean squared difference, in levels of 8 bits. Blurred images lie
    closer to everything, which may cause a ratio somewhat below 1. It is no published number.

    Args:
        training: The training images: a folder (``tar -xf`` extracts shards to one), or a file made
            by ``python -m callbacks.reference IMAGES
            --metric callbacks.memorised.Memorised --set training=none``.
        side: Pixels of a thumbnail's side.
        every_n: In ``fit``, compute at the first validation and at every n-th after it.
        limit: Use only the first images of each dataset, this many; all of them by default.
        label: Name in logs and results, if one metric is used twice.
        control: Also measure the bicubic enlargement of the same LR: the row ``bicubic`` of the
            results.
        reference: What the outputs are compared with instead of their HR images, a folder of
            images or a file as for ``training``; of images that were not trained on.

    Raises:
        ValueError: If ``side`` is below 1.
    """

    name = "memorised"
    higher_is_better = True  # up to 1
    minimum = 1
    enough = 100
    remark = "noisy"

    def __init__(
        self,
        training: str,
        side: int = 16,
        every_n: int = 1,
        limit: int | None = None,
        label: str | None = None,
        control: bool = False,
        reference: str | None = None,
    ) -> None:
        super().__init__(every_n, limit, label, control, reference)
        if side < 1:
            raise ValueError(f"`side` of Memorised is {side}; it must be at least 1")
        self.training, self.side = training, side
        self._trained: Reference | None = None  # on the first process only, which compares

    def protocol(self) -> MetricProtocol:
        """Return implementation, colour, thumbnails, and what was trained on."""
        known = self._trained
        return self.features_protocol() | {
            "distance": "root mean square, to the nearest",
            "training": None if known is None else f"{known.name}, {known.content}",
            "training_n": None if known is None else len(known.features),
        }

    def features_protocol(self) -> MetricProtocol:
        """Return implementation, colour and thumbnails."""
        return {
            "implementation": "enlarger memorised 1",
            "color": "rgb",
            "round_8bit": True,
            "data_range": 255,
            "resize": f"area to {self.side}x{self.side}",
        }

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Set up as all set metrics, and find the training images.

        Raises:
            ValueError: If they are missing, broken, or of another protocol.
        """
        super().setup(trainer, pl_module, stage)
        if self._loaded and not self._off:
            on_first(self._find_training)

    def features(self, images: Tensor, batch: Batch) -> Tensor:
        """Return (B, 3 side^2) thumbnails.

        Raises:
            TooSmall: If an image is smaller than its thumbnail.
        """
        if min(images.shape[-2:]) < self.side:
            raise TooSmall(images, f"a thumbnail's {self.side}x{self.side} (`side`)")
        pixels = (images.clamp(0, 1) * 255).round()
        return functional.adaptive_avg_pool2d(pixels, self.side).flatten(1)

    def distance(self, sr: Tensor, hr: Tensor) -> float:
        """Return the ratio for (N, D) and (M, D) thumbnails."""
        trained = self._training_features()
        return float(nearest(sr, trained).mean() / nearest(hr, trained).mean())

    def _find_training(self) -> None:
        self._training()  # not returned: it would be sent to all other processes

    def _training(self) -> Reference:
        if self._trained is None:
            self._trained = find_reference(self, self.training, "training")
        return self._trained

    def _training_features(self) -> Tensor:
        return torch.from_numpy(self._training().features).to(torch.float64)


def nearest(samples: Tensor, images: Tensor) -> Tensor:
    """Return the root mean square distance of each sample to the nearest image.

    Args:
        samples: (N, D) float64.
        images: (M, D) float64.

    Returns:
        (N,).
    """
    # Not by a matrix product, where a copy would not be at 0; in parts, because of the memory.
    exact = "donot_use_mm_for_euclid_dist"
    parts = torch.split(samples, 256)
    few = [torch.cdist(x, images, compute_mode=exact).amin(1) for x in parts]
    return torch.cat(few) / samples.shape[1] ** 0.5
