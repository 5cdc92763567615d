"""SelfSSIM, the agreement of outputs of one image at several scales.

Source: after its use in Ntavelis et al., "Arbitrary-scale image synthesis" (CVPR 2022); the details
are ours. That paper's code computes MS-SSIM of RGB after nearest-neighbour resizing and truncation,
so published numbers are not comparable.
"""

from __future__ import annotations

import logging
import math
from collections import Counter
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from callbacks.base import Measured, Metric, Record
from callbacks.pixels import to_pixels
from callbacks.ssim import ssim
from callbacks.tensorboard import MetricProtocol
from callbacks.too_small import TooSmall, warn_of_small
from degradations.bicubic import resize

if TYPE_CHECKING:
    from datamodules.base import Batch

log = logging.getLogger(__name__)


class SelfSSIM(Metric):
    """SSIM between the outputs at two scales, the first resized to the second's size.

    For datasets of the same images (with equal names in each dataset) at different scales, as
    several sources of one evaluation: ``self_ssim_from_x2`` of the x4 dataset compares the outputs
    at x2, enlarged by bicubic, with those at x4. Not symmetric; higher is better. Outputs of all
    datasets are kept in memory until the end, 3 bytes per pixel: see ``limit``.

    Args:
        color: ``y`` for the luma of BT.601 in [16, 235], or ``rgb``.
        every_n: In ``fit``, compute at the first validation and at every n-th after it.
        limit: Use only the first images of each dataset, this many; all of them by default.
        label: Name in logs and results.
    """

    name = "self_ssim"
    needs_hr = False

    def __init__(
        self,
        color: Literal["y", "rgb"] = "y",
        every_n: int = 1,
        limit: int | None = None,
        label: str | None = None,
    ) -> None:
        super().__init__(every_n, limit, label)
        if color not in ("y", "rgb"):
            raise ValueError(f"`color` of SelfSSIM is {color!r}; expected 'y' or 'rgb'")
        self.color: Literal["y", "rgb"] = color
        self._seen: list[tuple[Any, Measured]] = []  # datasets of this evaluation so far

    def protocol(self) -> MetricProtocol:
        """Return implementation, colour, border, rounding, resize, range and window."""
        return {
            "implementation": "enlarger self_ssim 1",
            "color": self.color,
            "border": 0,
            "round_8bit": True,
            "resize": "bicubic",
            "antialias": True,
            "data_range": 255,
            "window": "gaussian 11x11 1.5 valid",
        }

    def measure(self, sr: Tensor, hr: Tensor, batch: Batch) -> Tensor:
        """Return (B, 3, H + 1, W) uint8 outputs; the last row is 1 if all pixels are finite."""
        finite = sr.flatten(1).isfinite().all(1).view(-1, 1, 1, 1).expand(-1, 3, 1, sr.shape[-1])
        pixels = (sr.nan_to_num().clamp(0, 1) * 255).round()
        return torch.cat([pixels, finite.to(pixels)], dim=2).to(torch.uint8)

    def summarise(self, dataset: Any, images: Measured) -> list[Record]:
        """Return the numbers of this dataset with each earlier one, both ways."""
        named = {key.removeprefix(f"{dataset.name}/"): x for key, x in images.items()}
        records = []
        for other, others in self._seen:
            shared = sorted(named.keys() & others.keys())
            if not shared or other.scale == dataset.scale:
                continue
            for a, of_a, b, of_b in (
                (other, others, dataset, named),
                (dataset, named, other, others),
            ):
                metric = f"{self.name}_from_x{a.scale:g}"
                values = self._similarities(metric, b, {n: (of_a[n], of_b[n]) for n in shared})
                if not values:
                    continue
                if bad := [name for name, value in values.items() if not math.isfinite(value)]:
                    shown = ", ".join(bad[:5]) + (", ..." if len(bad) > 5 else "")
                    message = "%s of %s: %d of %d images have pixels that are not finite: %s"
                    log.warning(message, metric, b.name, len(bad), len(values), shown)
                mean = sum(values.values()) / len(values)
                records.append(self.record(b, mean, len(values), metric))
        self._seen.append((dataset, named))
        return records

    def _similarities(
        self, metric: str, dataset: Any, pairs: dict[str, tuple[Any, Any]]
    ) -> dict[str, float]:
        values, small = {}, {}
        for name, (a, b) in pairs.items():
            try:
                values[name] = self._similarity(a, b)
            except TooSmall as error:
                small[f"{dataset.name}/{name}"] = error.window
        warn_of_small(metric, dataset.name, small, len(values))
        return values

    def _similarity(self, a: Any, b: Any) -> float:
        if not (a[:, -1].all() and b[:, -1].all()):
            return math.nan
        a, b = a[:, :-1], b[:, :-1]
        first, second = (torch.from_numpy(x)[None].float() / 255 for x in (a, b))
        first = resize(first, second.shape[-2:])
        return float(ssim(to_pixels(first, self.color), to_pixels(second, self.color)))

    def _summaries(self, small: list[list[Measured]]) -> tuple[list[Record], ...]:
        found = super()._summaries(small)
        self._seen = []
        times = Counter((r["dataset"], r["metric"]) for r in found[0])
        for (dataset, metric), count in times.items():
            if count > 1:  # it is unknown which of them has the same images
                log.warning(
                    "no %s of %s: %d datasets of that scale have images of the same names; take "
                    "the others out, or rename their images",
                    *(metric, dataset, count),
                )
        kept = [r for r in found[0] if times[r["dataset"], r["metric"]] == 1]
        if not found[0]:
            log.warning(
                "no %s: it needs datasets of the same images at two scales or more", self.name
            )
        return kept, *found[1:]
