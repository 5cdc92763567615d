"""Images below a metric's window: skipped, counted and named."""

from __future__ import annotations

import logging
from collections.abc import Mapping

from torch import Tensor

log = logging.getLogger(__name__)


class TooSmall(ValueError):  # noqa: N818  (it describes the images)
    """Raised by a metric whose window is larger than an image.

    The evaluation continues without the image, and a warning names it.

    Args:
        images: (..., H, W), of one size.
        window: The smallest possible image, such as ``11x11 pixels without the border``.
    """

    def __init__(self, images: Tensor, window: str) -> None:
        super().__init__(f"{images.shape[-1]}x{images.shape[-2]} pixels are fewer than {window}")
        self.window = window


def warn_of_small(metric: str, dataset: str, small: Mapping[str, str], kept: int) -> None:
    """Warn of the images that a metric skipped.

    Args:
        metric: Its name in the logs.
        dataset: The dataset's name.
        small: The window by the key of each skipped image.
        kept: Number of the other images.
    """
    if not small:
        return
    shown = ", ".join(list(small)[:5]) + (", ..." if len(small) > 5 else "")
    left = f"its number is of the other {kept}" if kept else "there is no number"
    window = " or ".join(dict.fromkeys(small.values()))
    message = "%s of %s: %d of %d images are smaller than %s and left out, so %s: %s"
    log.warning(message, metric, dataset, len(small), len(small) + kept, window, left, shown)
