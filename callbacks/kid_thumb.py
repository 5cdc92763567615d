"""KID-thumb: compare the distributions of layout and colour of outputs and references.

The estimate of KID (Binkowski et al., ICLR 2018, Eq. 4) on small thumbnails instead of a network's
features: a substitute for KID if its weights are missing or images are too small for it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor
from torch.nn import functional

from callbacks.kid import SEED, kernel_distance
from callbacks.sets import SetMetric
from callbacks.tensorboard import MetricProtocol
from callbacks.too_small import TooSmall

if TYPE_CHECKING:
    from datamodules.base import Batch


class KIDThumb(SetMetric):
    """Maximum mean discrepancy of thumbnails under a cubic kernel; lower is better.

    Each image is shrunk to 8x8 RGB pixels by area, in [-1, 1]. Unbiased, so it may be slightly
    negative. It needs no weights, and reproduces no published number.

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

    Raises:
        ValueError: If a value is out of range.
    """

    name = "kid_thumb"
    enough = 100
    remark = "noisy"

    def __init__(
        self,
        side: int = 8,
        subsets: int = 100,
        subset_size: int = 1000,
        every_n: int = 1,
        limit: int | None = None,
        label: str | None = None,
        control: bool = False,
        reference: str | None = None,
    ) -> None:
        super().__init__(every_n, limit, label, control, reference)
        arguments = (("side", side, 1), ("subsets", subsets, 1), ("subset_size", subset_size, 2))
        for key, value, least in arguments:
            if value < least:
                raise ValueError(f"`{key}` of KIDThumb is {value}; it must be at least {least}")
        self.side, self.subsets, self.subset_size = side, subsets, subset_size

    def protocol(self) -> MetricProtocol:
        """Return implementation, colour, thumbnails, kernel and subsets."""
        return {
            "implementation": "enlarger kid_thumb 1",
            "color": "rgb",
            "round_8bit": True,
            "data_range": "[-1, 1]",
            "resize": f"area to {self.side}x{self.side}",
            "kernel": f"(x.y/{3 * self.side**2} + 1)^3, unbiased",
            "subsets": f"{self.subsets} of up to {self.subset_size}, seed {SEED}",
        }

    def features_protocol(self) -> MetricProtocol:
        """Return colour and thumbnails."""
        wanted = ("implementation", "color", "round_8bit", "data_range", "resize")
        return {key: value for key, value in self.protocol().items() if key in wanted}

    def features(self, images: Tensor, batch: Batch) -> Tensor:
        """Return (B, 3 side^2) thumbnails.

        Raises:
            TooSmall: If an image is smaller than its thumbnail.
        """
        if min(images.shape[-2:]) < self.side:
            raise TooSmall(images, f"a thumbnail's {self.side}x{self.side} (`side`)")
        rounded = (images.clamp(0, 1) * 255).round() / 255
        return functional.adaptive_avg_pool2d(rounded * 2 - 1, self.side).flatten(1)

    def distance(self, sr: Tensor, hr: Tensor) -> float:
        """Return the discrepancy of (N, D) and (M, D) thumbnails."""
        return kernel_distance(sr, hr, self.subsets, self.subset_size)[0]
