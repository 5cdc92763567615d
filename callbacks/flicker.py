"""Flicker: changes between consecutive frames that are not motion.

Differences of consecutive frames after motion compensation, as in Lai et al., "Learning blind video
temporal consistency" (ECCV 2018), section 4.1, whose flow is a network's. Here it is Farneback's
(SCIA 2003), which needs no weights, and is computed on each clip itself: a generated clip has no
real clip of the same motion.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from callbacks.inception import levels
from callbacks.sets import SetMetric
from callbacks.tensorboard import MetricProtocol
from callbacks.too_small import TooSmall

if TYPE_CHECKING:
    from datamodules.base import Batch

STILL = 0.1  # pixels per frame: less is no motion
BORDER = 2  # pixels, where no window of the flow is complete
# pyr_scale, levels, winsize, iterations, poly_n, poly_sigma, flags: of cv2.calcOpticalFlowFarneback
FLOW: tuple[Any, ...] = (0.5, 3, 9, 5, 5, 1.1, 0)


class Flicker(SetMetric):
    """Mean absolute difference of consecutive frames, in levels of 8 bits; lower is steadier.

    ``flicker`` compares a frame with the previous one warped along the optical flow;
    ``flicker_static`` compares places that do not move (less than 0.1 pixels by the flow) without
    warping. Real clips are not at 0: ``flicker_real`` and ``flicker_static_real`` are those of
    the batch's clips, whose content differs if clips are generated from noise. A flow follows small
    flicker of detail, so it is a lower bound; blurred clips hardly flicker: compare
    ``frame_swd``. It reproduces no published number.

    Args:
        every_n: In ``fit``, compute at the first validation and at every n-th after it.
        limit: Use only the first clips of each dataset, this many; all of them by default.
        label: Name in logs and results, if one metric is used twice.
    """

    name = "flicker"
    target = "clip"
    minimum = 1

    def __init__(
        self, every_n: int = 1, limit: int | None = None, label: str | None = None
    ) -> None:
        super().__init__(every_n, limit, label)

    def protocol(self) -> MetricProtocol:
        """Return implementation, colour, rounding, flow and border."""
        return {
            "implementation": "enlarger flicker 1",
            "color": "rgb",
            "round_8bit": True,
            "data_range": 255,
            "border": BORDER,
            "flow": f"Farneback {' '.join(map(str, FLOW))}, of each clip's own luma",
            "still": f"below {STILL} pixels a frame",
        }

    def features(self, images: Tensor, batch: Batch) -> Tensor:
        """Return (B, 4): sum and number of differences along the flow, and of still places.

        Raises:
            TooSmall: If nothing is left of them without the border.
            ValueError: If they are not clips.
        """
        if images.ndim != 5 or images.shape[1] < 2:
            raise ValueError(
                f"{self.name} of {', '.join(batch['key'])}: got the shape {tuple(images.shape)}; "
                "expected clips (B, T, 3, H, W) of 2 frames or more"
            )
        if min(images.shape[-2:]) <= 2 * BORDER:
            raise TooSmall(images, f"one pixel without the border of {BORDER}")
        clips = levels(images.clamp(0, 1).nan_to_num()).to(torch.uint8).movedim(2, -1).cpu().numpy()
        return torch.tensor(np.stack([_differences(clip) for clip in clips]))

    def distance(self, sr: Tensor, hr: Tensor) -> float:
        """Return the difference along the flow, of the outputs alone."""
        return self.distances(sr, hr)[self.name]

    def distances(self, sr: Tensor, hr: Tensor) -> dict[str, float]:
        """Return differences along the flow and of still places, of outputs and of real clips.

        Without still places their difference is absent.
        """
        found = {}
        for end, clips in (("", sr), ("_real", hr)):
            moved, places, still, still_places = clips.sum(0).tolist()
            found[f"{self.name}{end}"] = moved / places if places else float("nan")
            if still_places:
                found[f"{self.name}_static{end}"] = still / still_places
        return found


def _differences(clip: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Return sums and counts of (T, H, W, 3), as ``Flicker.features``."""
    luma = [cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in clip]
    height, width = luma[0].shape
    rows, columns = np.mgrid[:height, :width].astype(np.float32)
    inner = np.zeros((height, width), bool)
    inner[BORDER : height - BORDER, BORDER : width - BORDER] = True
    total = np.zeros(4)
    for n in range(1, len(clip)):
        # From the later frame to the earlier: where what is here now was then.
        flow: Any = cv2.calcOpticalFlowFarneback(luma[n], luma[n - 1], None, *FLOW)  # type: ignore[call-overload]
        x, y = columns + flow[..., 0], rows + flow[..., 1]
        known = inner & (x >= 0) & (x <= width - 1) & (y >= 0) & (y <= height - 1)
        before, now = clip[n - 1].astype(np.float32), clip[n].astype(np.float32)
        moved: Any = cv2.remap(before, x, y, cv2.INTER_LINEAR)
        still = known & (np.hypot(flow[..., 0], flow[..., 1]) < STILL)
        along, apart = abs(now - moved).mean(-1), abs(now - before).mean(-1)
        total += along[known].sum(), known.sum(), apart[still].sum(), still.sum()
    return total
