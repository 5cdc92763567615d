"""Which way a logged value is better: the one place that says it of a name."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Literal

from lightning.pytorch import Callback

from callbacks.base import Metric

Direction = Literal["min", "max"]
WORDS = {"max": "higher", "min": "lower"}

# Of values that no metric of the trainer logs: what models log, and our metrics' names, which other
# code logs too. A test compares them with the metrics themselves.
KNOWN: dict[str, Direction] = {
    **dict.fromkeys(
        (
            *("psnr", "lr_psnr", "ssim", "ms_ssim", "self_ssim", "musiq", "maniqa", "clipiqa"),
            *("topiq_nr", "memorised", "2afc", "bit_accuracy", "accuracy"),
        ),
        "max",
    ),
    **dict.fromkeys(
        (
            *("lpips", "dists", "niqe", "pi", "fid", "kid", "pfid", "pkid", "fvd", "kvd"),
            *("kid_thumb", "frame_kid_thumb", "swd", "frame_swd", "flicker", "repetition"),
            *("lattice", "loss", "mse", "perceptual", "pixel"),
        ),
        "min",
    ),
}
_STAGE = re.compile(r"(train|training|val|valid|validation|test)[/_]")
_SUFFIX = re.compile(r"(/dataloader_idx_\d+|_step|_epoch)+$")  # Lightning's own


def direction_of(name: str, callbacks: Iterable[Callback] = ()) -> Direction | None:
    """Return which values of a name are better, or None where nobody knows.

    Args:
        name: As logged, e.g. ``val/swd``, ``val/set5/swd_2``, ``train/loss_epoch``.
        callbacks: The trainer's, whose metrics may have names of their own.
    """
    bare = _STAGE.sub("", _SUFFIX.sub("", name), count=1)
    metrics = {metric.name: metric for metric in callbacks if isinstance(metric, Metric)}
    if (own := _nearest(bare, metrics, further="_[^/]+")) is not None:
        higher = metrics[own].is_higher_better(bare[bare.rindex(own) :])
        return None if higher is None else "max" if higher else "min"
    if (
        known := _nearest(bare, KNOWN, further=r"_\d+|_scale_\d+|_static|_from_x[^/]+")
    ) is not None:
        return KNOWN[known]
    return "min" if bare.endswith("_loss") else None


def _nearest(bare: str, names: Iterable[str], further: str) -> str | None:
    # The longest name that a value's begins with, behind the name of a dataset, if there is one.
    found = [n for n in names if re.search(rf"(^|/){re.escape(n)}({further})?$", bare)]
    return max(found, key=len, default=None)
