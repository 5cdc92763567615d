"""What samples of generators measured: distances of sets, and intervals by resampling samples.

The numbers are those of the callbacks, by their own code, of pictures that a row has kept. The n-th
sample of all rows began with the same seed, so two rows are compared on the same resamples. Samples
of clips are looked at frame by frame, and resampled as clips.
"""

from __future__ import annotations

import importlib
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import yaml
from torch import Tensor
from torch.nn import functional

from benchmarks.miniature import swd as miniature_swd
from benchmarks.miniature.callbacks import HR, OUTPUTS
from benchmarks.miniature.numbers import SEED, SWD_DRAWS, Difference, middle
from benchmarks.miniature.swd import Numbers
from callbacks.metrics.consistency import Repetition, nearest
from callbacks.metrics.fid import KIDThumb
from callbacks.metrics.sets import find_images, read_image
from callbacks.metrics.swd import SWD
from callbacks.results.compare import FEWEST
from datamodules.sources.clips import ClipSource

LEVELS, PATCHES, THUMBNAIL, PARTS = 3, 64, 16, 5


class Set(NamedTuple):
    """Features of N pictures.

    patches: (N, levels, patches, D), of SWD.
    thumbnails: (N, D), of KID-thumb.
    repetition: (N, 1).
    near: (N, D) thumbnails of the base's side, in levels of 8 bits, for nearest neighbours.
    """

    patches: Tensor
    thumbnails: Tensor
    repetition: Tensor
    near: Tensor


@dataclass(frozen=True)
class References:
    """What samples are compared with.

    real: Pictures of the target's size that were not trained on.
    training: (K, D) thumbnails, as ``Set.near``, of all pictures that were trained on.
    base: (M, D) thumbnails of samples of the base, of other seeds.
    frames: Pictures of a sample, one after the other: they are resampled together.
    """

    real: Set
    training: Tensor
    base: Tensor
    frames: int = 1
    weights: Numbers = field(init=False)  # (draws, N): how often a sample is in a resample

    def __post_init__(self) -> None:
        counts = miniature_swd.counts(len(self.real.near) // self.frames, SWD_DRAWS, SEED)
        object.__setattr__(self, "weights", counts.repeat(self.frames, axis=1))


class Samples:
    """The numbers of one row.

    Args:
        seeds: Features of its samples, a set a seed; as many as the real ones.
        known: What they are compared with.
    """

    def __init__(self, seeds: Sequence[Set], known: References) -> None:
        self.seeds, self.known = seeds, known
        self._resamples: dict[str, Numbers] = {}

    @property
    def n(self) -> int:
        """Samples of a seed."""
        return len(self.known.real.near) // self.known.frames

    def numbers(self) -> dict[str, list[float]]:
        """By metric, a number a seed: the distances, and the nearest-neighbour ratio."""
        found = [distances(one, self.known) for one in self.seeds]
        return {name: [numbers[name] for numbers in found] for name in found[0]}

    def resamples(self, metric: str) -> Numbers:
        """(draws,) of one of the distances, the mean over the seeds, up to what rows share."""
        if metric not in self._resamples:
            found = [_resampled(metric, one, self.known) for one in self.seeds]
            self._resamples[metric] = np.mean(found, axis=0)
        return self._resamples[metric]


def difference(a: Samples, b: Samples, metric: str) -> Difference:
    """How the first row differs from the second in one of the distances."""
    value = statistics.fmean(a.numbers()[metric]) - statistics.fmean(b.numbers()[metric])
    interval = None
    if a.n >= FEWEST:
        interval = middle(a.resamples(metric) - b.resamples(metric), a.n)
    return Difference(metric, None, a.n, value, interval)


def distances(samples: Set, known: References) -> dict[str, float]:
    """All numbers of a set of samples.

    Of clips not how near they are to training pictures: windows that are drawn have no end.
    """
    levels = SWD(levels=LEVELS).distances(samples.patches, known.real.patches)
    copied = {}
    if known.frames == 1:
        own, held = (nearest(x.near, known.training).mean() for x in (samples, known.real))
        copied["memorised"] = float(own / held)
    kid = KIDThumb()
    return {
        **levels,
        "kid_base": kid.distance(samples.thumbnails, known.base),
        "kid_real": kid.distance(samples.thumbnails, known.real.thumbnails),
        "repetition": float(samples.repetition.mean() - known.real.repetition.mean()),
        **copied,
    }


def _resampled(metric: str, samples: Set, known: References) -> Numbers:
    weights = known.weights
    if metric.startswith("swd"):
        level = int(metric.removeprefix("swd").strip("_") or 1) - 1
        sr, hr = (x.patches[:, level : level + 1] for x in (samples, known.real))
        return miniature_swd.resampled(sr, hr, weights)
    if metric == "repetition":
        apart = samples.repetition - known.real.repetition
        return np.asarray(weights @ apart[:, 0].numpy() / len(apart))
    reference = known.base if metric == "kid_base" else known.real.thumbnails
    return kernel_resampled(samples.thumbnails, reference, weights)


def kernel_resampled(samples: Tensor, reference: Tensor, weights: Numbers) -> Numbers:
    """The kernel distance for each way to weight samples, without what it has of references alone.

    A sample that is drawn twice is no pair with itself: that would not be an unbiased estimate.

    Args:
        samples: (N, D) float64.
        reference: (M, D) float64, not resampled.
        weights: (draws, N), each row with the sum N.
    """
    own, other = (((samples @ x.T / x.shape[1] + 1) ** 3).numpy() for x in (samples, reference))
    np.fill_diagonal(own, 0)
    pairs = weights.sum(1) ** 2 - np.square(weights).sum(1)
    within = ((weights @ own) * weights).sum(1) / pairs
    return np.asarray(within - 2 * weights @ other.mean(1) / weights.sum(1))


# ------------------------------------------------------------------------------------ pictures
def features(pictures: Tensor, keys: Sequence[str], base: int, frames: int = 1) -> Set:
    """All features of pictures.

    Args:
        pictures: (N, 3, H, W) in [0, 1].
        keys: Their names, by which places of patches are drawn.
        base: Side of the base's pictures.
        frames: Pictures of a sample, among which its patches are divided.
    """
    batch: Any = {"key": list(keys)}
    patches_each = max(1, PATCHES // frames)
    metrics = SWD(levels=LEVELS, patches=patches_each), KIDThumb(), Repetition(base)
    patches, small, repeated = (m.finite_features(pictures, batch).double() for m in metrics)
    return Set(patches, small, repeated, near_of(pictures))


def near_of(pictures: Tensor) -> Tensor:
    """(N, D) thumbnails of pictures, by which nearest neighbours are found."""
    pixels = (pictures * 255).round()
    return functional.adaptive_avg_pool2d(pixels, THUMBNAIL).flatten(1).double()


def folder_of(run: Path, part: str) -> Path:
    """Where a row kept samples of a seed, or the real pictures."""
    return run / OUTPUTS / part


def kept(folder: Path, count: int | None = None) -> tuple[Tensor, list[str]]:
    """Pictures of a folder, (N, 3, H, W) in [0, 1], and their names; the first so many."""
    files = find_images([folder])[:count]
    names = [file.relative_to(folder).with_suffix("").as_posix() for file in files]
    return torch.cat([read_image(file) for file in files]), names


def trained_on(data: Path) -> Tensor:
    """(N, 3, H, W) in [0, 1], what ``train`` of a data configuration has, of one size.

    Of clips, all frames of what evaluation would show of each.
    """
    arguments = yaml.safe_load(data.read_text(encoding="utf-8"))["init_args"]
    made = _made(arguments["train"])
    made.prepare(float(arguments["scale"]))
    if isinstance(made, ClipSource):
        pictures = np.concatenate([made.clip(n, None)["clip"] for n in range(len(made.keys))])
    else:
        pictures = np.stack([made.read(index)["hr"] for index in range(len(made.keys))])
    return torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 255


def _made(described: Any) -> Any:
    """The object that a configuration describes, with those in its arguments."""
    if not isinstance(described, dict) or "class_path" not in described:
        return described
    module, _, name = described["class_path"].rpartition(".")
    arguments = {key: _made(value) for key, value in described.get("init_args", {}).items()}
    return getattr(importlib.import_module(module), name)(**arguments)


def parts(pictures: Tensor, size: int) -> list[Tensor]:
    """Consecutive parts of so many pictures, a few of them."""
    return [part for part in torch.split(pictures, size)[:PARTS] if len(part) == size]


def thumbnails(pictures: Tensor, side: int) -> Tensor:
    """Averaged over squares to that side, and rounded to 8 bits as the base's samples are."""
    small = functional.adaptive_avg_pool2d(pictures, side)
    return (small * 255).round() / 255


def swd_of(samples: Tensor, real: Tensor, levels: int) -> dict[str, float]:
    """SWD of (N, 3, h, w) against (N, 3, h, w), by level."""
    metric = SWD(levels=levels, patches=PATCHES)
    keys: Any = {"key": [str(number) for number in range(len(real))]}
    sets = [metric.finite_features(x, keys).double() for x in (samples, real)]
    return metric.distances(*sets)


def real_of(run: Path) -> Path:
    """The real pictures beside a row's samples."""
    return folder_of(run, HR)
